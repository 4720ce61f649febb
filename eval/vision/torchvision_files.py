"""Reads the files of torchvision's data sets: labels at once, images one by one.

torchvision's own classes find and check the files. Their transforms are not used, and images that
are arrays already do not pass through Pillow. Two data sets are read by this module itself:
torchvision has no splits of SUN397, and decodes all images of FER2013 to read a label.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from eval.images.file_source import ArraySource, FileSource
from eval.images.protocol import ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from eval.images.protocol import ImageSource
    from eval.vision.catalogue import VisionEntry

FER_SIDE = 48
"""Height and width of FER2013's images, in pixels."""
FER_TABLE = "fer2013.csv"
"""File name of FER2013's table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CsvSource:
    """A split whose images are rows of numbers in a text column."""

    pixels: Any
    """One string per image: grey values separated by spaces."""
    labels: NDArray[np.int64]
    path: Path
    """The file."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """Parses one image; see `eval.images.protocol.ImageSource`."""
        try:
            values = [int(value) for value in self.pixels[index].as_py().split()]
            return np.array(values, dtype=np.uint8).reshape(FER_SIDE, FER_SIDE, 1)
        except (ValueError, OverflowError) as error:
            raise ImageSourceError(f"{self.path}, row {index}: {error}") from error

    def name(self, index: int) -> str:
        """Returns the file and the row of an image."""
        return f"{self.path.name}, row {index}"


def open_split(entry: VisionEntry, *, parts: Sequence[Any], root: Path) -> list[ImageSource]:
    """Opens the parts that make up a split of a data set.

    Args:
        entry: The catalogue's entry, whose source names a class of torchvision.
        parts: Arguments of that class, or names of lists; one for each part.
        root: The data root.

    Raises:
        ImageSourceError: The classes in the files are not the catalogue's.
        OSError, RuntimeError, ValueError, KeyError: Files are missing, damaged or of another kind;
            torchvision and its readers raise any of these.
    """
    read = READERS[entry["source"]["torchvision"]]
    return [read(entry, part, root) for part in parts]


def _grey(entry: VisionEntry, part: Any, root: Path) -> ImageSource:  # noqa: ANN401 arguments
    found = _dataset(entry, part, root=root)
    return ArraySource(images=found.data.numpy()[..., None], labels=_labels(found.targets))


def _letters(entry: VisionEntry, part: Any, root: Path) -> ImageSource:  # noqa: ANN401 arguments
    """Reads EMNIST's letters, whose labels begin at 1 and whose images are transposed."""
    found = _dataset(entry, part, root=root)
    upright = found.data.numpy().transpose(0, 2, 1)[..., None]
    return ArraySource(images=upright, labels=_labels(found.targets) - 1)


def _channels_last(entry: VisionEntry, part: Any, root: Path) -> ImageSource:  # noqa: ANN401 arguments
    found = _dataset(entry, part, root=root)
    _check_classes(found.classes, entry=entry)
    return ArraySource(images=found.data, labels=_labels(found.targets))


def _channels_first(entry: VisionEntry, part: Any, root: Path) -> ImageSource:  # noqa: ANN401 arguments
    found = _dataset(entry, part, root=root)
    if (classes := getattr(found, "classes", None)) is not None:
        _check_classes(classes, entry=entry)
    return ArraySource(images=found.data.transpose(0, 2, 3, 1), labels=_labels(found.labels))


def _files(entry: VisionEntry, part: Any, root: Path) -> ImageSource:  # noqa: ANN401 arguments
    """Reads a class that takes a loader. With `Path` as the loader it returns paths unopened."""
    found = _dataset(entry, {**part, "loader": Path}, root=root)
    if (classes := getattr(found, "classes", None)) is not None:
        _check_classes(classes, entry=entry)
    return _file_source(entry, [found[index] for index in range(len(found))])


def _signs(entry: VisionEntry, part: Any, root: Path) -> ImageSource:  # noqa: ANN401 arguments
    found = _dataset(entry, part, root=root)
    return _file_source(entry, found._samples)  # noqa: SLF001 this class takes no loader


def _pets(entry: VisionEntry, part: Any, root: Path) -> ImageSource:  # noqa: ANN401 arguments
    found = _dataset(entry, part, root=root)
    _check_classes(found.classes, entry=entry)
    samples = zip(found._images, found._labels, strict=True)  # noqa: SLF001 this class takes no loader
    return _file_source(entry, list(samples))


def _scenes(entry: VisionEntry, part: str, root: Path) -> ImageSource:
    """Reads one of SUN397's lists, with lines like `/a/apartment_building/outdoor/sun_aabb.jpg`."""
    folder = root / "SUN397"
    lines = (folder / part).read_text(encoding="utf-8").split()
    numbers = {name: number for number, name in enumerate(entry["classes"])}
    named = [" ".join(line.split("/")[2:-1]).replace("_", " ") for line in lines]
    unknown = sorted({name for name in named if name not in numbers})
    if unknown:
        raise ImageSourceError(f"{folder / part}: no classes of SUN397: {', '.join(unknown[:5])}")
    samples = [
        (folder / line.lstrip("/"), numbers[name]) for line, name in zip(lines, named, strict=True)
    ]
    return _file_source(entry, samples)


def _faces(entry: VisionEntry, part: str, root: Path) -> ImageSource:
    """Reads the rows of FER2013's table with one value of the column `Usage`."""
    path = root / "fer2013" / FER_TABLE
    digest = entry["source"]["digests"][FER_TABLE].removeprefix("md5:")
    if not check_integrity(str(path), md5=digest):
        raise FileNotFoundError(f"{FER_TABLE} does not exist, or its md5 is not {digest}")
    table = pyarrow.csv.read_csv(
        path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=False)
    )
    rows = table.filter(pc.equal(table.column("Usage"), part))
    return CsvSource(
        pixels=rows.column("pixels"),
        labels=_labels(rows.column("emotion").to_numpy()),
        path=path,
    )


READERS: dict[str, Callable[[VisionEntry, Any, Path], ImageSource]] = {
    "CIFAR10": _channels_last,
    "CIFAR100": _channels_last,
    "DTD": _files,
    "EMNIST": _letters,
    "FER2013": _faces,
    "FashionMNIST": _grey,
    "Flowers102": _files,
    "Food101": _files,
    "GTSRB": _signs,
    "KMNIST": _grey,
    "MNIST": _grey,
    "OxfordIIITPet": _pets,
    "RenderedSST2": _files,
    "STL10": _channels_first,
    "SUN397": _scenes,
    "SVHN": _channels_first,
    "StanfordCars": _files,
}
"""The reader of each torchvision class."""


def _dataset(entry: VisionEntry, part: dict[str, Any], *, root: Path) -> Any:  # noqa: ANN401 one of 15 classes
    return getattr(datasets, entry["source"]["torchvision"])(root, **part)


def _labels(values: Any) -> NDArray[np.int64]:  # noqa: ANN401 a tensor, an array or a list
    return np.asarray(values, dtype=np.int64)


def _file_source(entry: VisionEntry, samples: Sequence[tuple[Path | str, int]]) -> FileSource:
    return FileSource(
        paths=[Path(path) for path, _ in samples],
        labels=_labels([label for _, label in samples]),
        channels=entry["channels"],
    )


def _check_classes(found: Sequence[str], *, entry: VisionEntry) -> None:
    """Compares class names, ignoring their case and the characters between words."""
    plain = [_plain(name) for name in found]
    expected = [_plain(name) for name in entry["classes"]]
    if plain == expected:
        return
    differing = (pair for pair in zip(found, entry["classes"], strict=False) if _differ(*pair))
    first = next(differing, None)
    where = f"; the first that differs is {first[0]!r}, not {first[1]!r}" if first else ""
    raise ImageSourceError(
        f"the files have {len(plain)} classes, the catalogue has {len(expected)}{where}"
    )


def _differ(left: str, right: str) -> bool:
    return _plain(left) != _plain(right)


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))

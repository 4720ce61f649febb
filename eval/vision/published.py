"""Opens the published data sets from files under a data root; downloads nothing.

Errors::

    ValueError
    └── ImageSourceError    files are missing or damaged, or contradict the catalogue
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eval.hub_snapshots import snapshot_directory
from eval.images.protocol import ImageSourceError
from eval.images.table_files import find_shards, walk_tables
from eval.images.table_source import TableSource, check_image_column, read_labels
from eval.vision.catalogue import read_catalogue
from eval.vision.torchvision_files import open_split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from eval.images.protocol import ImageSource
    from eval.vision.catalogue import VisionEntry

SPLITS = ("train", "test")


class JoinedSource:
    """Several sources, one after another, as one split."""

    def __init__(self, parts: Sequence[ImageSource]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part.labels) for part in parts])
        self.labels: NDArray[np.int64] = np.concatenate([part.labels for part in parts])

    def image(self, index: int) -> NDArray[np.uint8]:
        """Decodes one image; see `eval.images.protocol.ImageSource`."""
        part, position = self._find(index)
        return part.image(position)

    def name(self, index: int) -> str:
        """Returns the name of an image in its own source."""
        part, position = self._find(index)
        return part.name(position)

    def _find(self, index: int) -> tuple[ImageSource, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[number - 1]) if number else 0
        return self._parts[number], index - start


def open_vision(task_name: str, *, root: Path, check_counts: bool = True) -> dict[str, ImageSource]:
    """Opens a published data set, and checks it against the catalogue.

    Args:
        task_name: A name of the catalogue.
        root: The data root, with the files that `torchvision.datasets.X(root, download=True)`
            writes and snapshots of the hub (`eval.hub_snapshots`).
        check_counts: Whether to check the number of images; False for a part of a data set.

    Returns:
        ``train`` and ``test``, with labels read and no image decoded yet.

    Raises:
        ImageSourceError: The files are missing or damaged, or contradict the catalogue.
    """
    entry = read_catalogue()[task_name]
    sources = {split: _open(task_name, split, entry=entry, root=root) for split in SPLITS}
    for split, source in sources.items():
        expected = entry["num_train"] if split == "train" else entry["num_test"]
        where = f"{task_name}, {split} split under {root}"
        _check_labels(source.labels, num_classes=len(entry["classes"]), where=where)
        if check_counts and len(source.labels) != expected:
            raise ImageSourceError(
                f"{where}: {len(source.labels):,} images, but the catalogue has {expected:,}"
            )
    return sources


def remedy(task_name: str, *, root: Path) -> str:
    """Returns how to get a data set's files, as a sentence for a message."""
    by_hand = read_catalogue()[task_name]["source"].get("by_hand")
    if by_hand:
        return f"No program can fetch them: {by_hand}."
    return f"Get them with: python -m eval.vision.download {task_name} --root {root}"


def _open(task_name: str, split: str, *, entry: VisionEntry, root: Path) -> ImageSource:
    source = entry["source"]
    if "hub" in source:
        return _open_tables(task_name, split, entry=entry, root=root)
    parts: list[Any] = source["train"] if split == "train" else source["test"]
    try:
        return _joined(open_split(entry, parts=parts, root=root))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ImageSourceError(
            f"{task_name}, {split} split: {root}: {_first_line(error)}. Expected there: "
            f"{source['files']}. {remedy(task_name, root=root)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (
        str(error)
        .split("\n")[0]
        .removesuffix("You can use download=True to download it")
        .strip(". ")
    )


def _open_tables(task_name: str, split: str, *, entry: VisionEntry, root: Path) -> ImageSource:
    source, help_text = entry["source"], remedy(task_name, root=root)
    revision = source["revision"]
    directory = snapshot_directory(source["hub"], revision=revision, root=root, remedy=help_text)
    names: list[str] = source["train"] if split == "train" else source["test"]
    parts = []
    tree = walk_tables(directory)
    for name in names:
        shards = find_shards(tree, split=name)
        if not shards:
            raise ImageSourceError(
                f"{directory}: no Parquet file of the split {name!r}. {help_text}"
            )
        check_image_column(shards, column=source["image"])
        labels = read_labels(shards, column=source["label"])
        _check_names(labels.names, entry=entry, directory=directory)
        if labels.values.dtype != np.int64:
            raise ImageSourceError(f"{directory}: labels of {name!r} are not integers")
        parts.append(
            TableSource(
                shards,
                column=source["image"],
                labels=labels.values,
                channels=entry["channels"],
            )
        )
    return _joined(parts)


def _joined(parts: Sequence[ImageSource]) -> ImageSource:
    return parts[0] if len(parts) == 1 else JoinedSource(parts)


def _check_names(names: tuple[str, ...] | None, *, entry: VisionEntry, directory: Path) -> None:
    if names is not None and len(names) != len(entry["classes"]):
        raise ImageSourceError(
            f"{directory}: {len(names)} classes, but the catalogue has {len(entry['classes'])}"
        )


def _check_labels(labels: NDArray[np.int64], *, num_classes: int, where: str) -> None:
    if len(labels) == 0:
        raise ImageSourceError(f"{where}: no images")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise ImageSourceError(
            f"{where}: labels from {lowest} to {highest}, but the catalogue has {num_classes} "
            f"classes, 0 to {num_classes - 1}"
        )

"""All twenty published data sets in their published formats, with three images per class.

Two of them are also made at their published sizes, for runs, which refuse a part of a data set. The
colour of an image encodes its label: red (or grey) is a function of the label, green is 255 minus
red, and blue is 128. torchvision checks digests of files as it opens them. Here it checks them
against the digests of the made files.
"""

import csv
import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from eval.vision import catalogue
from eval.vision.catalogue import VisionEntry, read_catalogue

SIZES = {"train": 2, "test": 1}
"""Images per class in each split."""
NUM_SCENES = 5
"""Number of SUN397's classes that are made."""

Maker = Callable[[VisionEntry, Path], None]


class SizedMaker(Protocol):
    """A function that makes a data set of any size."""

    def __call__(self, entry: VisionEntry, root: Path, *, sizes: Mapping[str, int] = SIZES) -> None:
        """Makes the given number of images per class in each split."""


def shade(label: int) -> int:
    """Returns the grey or red of a class's images."""
    return (label * 37) % 240 + 8


def labels_of(num_classes: int, split: str, *, sizes: Mapping[str, int] = SIZES) -> list[int]:
    """Returns the labels of a split, class by class."""
    return [label for label in range(num_classes) for _ in range(sizes[split])]


def picture(label: int, *, size: tuple[int, int] = (10, 8)) -> Image.Image:
    """Returns a class's image, of a width and a height in pixels."""
    return Image.new("RGB", size, (shade(label), 255 - shade(label), 128))


def pixels(label: int, *, side: int) -> NDArray[np.uint8]:
    """Returns a class's image, (side, side, 3)."""
    return np.asarray(picture(label, size=(side, side)))


@pytest.fixture(scope="session")
def made_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes all data sets once per session; tests only read them."""
    root = tmp_path_factory.mktemp("data")
    for name, entry in read_catalogue().items():
        MAKERS[name](entry, root)
    return root


@pytest.fixture(scope="session")
def whole_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes MNIST and EuroSAT at their published sizes: one grey and one colour data set."""
    root = tmp_path_factory.mktemp("whole")
    for name, make in (("mnist", _idx("MNIST", _MNIST)), ("eurosat", _tables())):
        entry = read_catalogue()[name]
        counts = {"train": entry["num_train"], "test": entry["num_test"]}
        num_classes = len(entry["classes"])
        make(entry, root, sizes={split: each // num_classes for split, each in counts.items()})
    return root


@pytest.fixture
def vision_root(made_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the data root, after replacing the published digests by those of the made files."""
    _expect_made_files(monkeypatch, root=made_root)
    return made_root


@pytest.fixture(scope="session")
def made_labels() -> Callable[[str, str], list[int]]:
    """Returns the labels with which a data set's split was made."""

    def made(name: str, split: str) -> list[int]:
        if name == "sun397":
            return [label for label in scenes() for _ in range(SIZES[split])]
        return labels_of(len(read_catalogue()[name]["classes"]), split)

    return made


@pytest.fixture(scope="session")
def shade_of() -> Callable[[int], int]:
    """Returns the grey or red of a class's images."""
    return shade


def scenes() -> list[int]:
    """Returns the labels of the made scenes; one of them is a subclass of a place."""
    classes = read_catalogue()["sun397"]["classes"]
    names = ["abbey", "apartment building outdoor", "jail cell", "jail indoor", "youth hostel"]
    assert len(names) == NUM_SCENES
    return [classes.index(name) for name in names]


def _expect_made_files(patched: pytest.MonkeyPatch, *, root: Path) -> None:
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        folder = root / kind.base_folder
        for files in ("train_list", "test_list"):
            made = [[name, _md5(folder / name)] for name, _ in getattr(kind, files)]
            patched.setattr(kind, files, made)
        meta = {**kind.meta, "md5": _md5(folder / kind.meta["filename"])}
        patched.setattr(kind, "meta", meta)
    for files in ("train_list", "test_list"):
        folder = root / datasets.STL10.base_folder
        made = [[name, _md5(folder / name)] for name, _ in getattr(datasets.STL10, files)]
        patched.setattr(datasets.STL10, files, made)
    svhn = {
        split: [url, name, _md5(root / name)]
        for split, (url, name, _) in datasets.SVHN.split_list.items()
        if split != "extra"
    }
    patched.setattr(datasets.SVHN, "split_list", svhn)
    flowers = {
        key: (name, _md5(root / "flowers-102" / name) if key != "image" else md5)
        for key, (name, md5) in datasets.Flowers102._file_dict.items()
    }
    patched.setattr(datasets.Flowers102, "_file_dict", flowers)
    digests = catalogue.read_catalogue()["fer2013"]["source"]["digests"]
    patched.setitem(digests, "fer2013.csv", f"md5:{_md5(root / 'fer2013' / 'fer2013.csv')}")


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _save(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(label).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def _idx(folder: str, names: dict[str, str], *, first: int = 0) -> SizedMaker:
    def make(entry: VisionEntry, root: Path, *, sizes: Mapping[str, int] = SIZES) -> None:
        raw = root / folder / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for split, prefix in names.items():
            labels = labels_of(len(entry["classes"]), split, sizes=sizes)
            images = np.stack([np.full((28, 28), shade(each), dtype=np.uint8) for each in labels])
            images[:, 3, 20] = 255  # row 3, column 20, as the file has them
            header = struct.pack(">HBBIII", 0, 8, 3, len(labels), 28, 28)
            (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
            numbers = np.array(labels, dtype=np.uint8) + first
            header = struct.pack(">HBBI", 0, 8, 1, len(labels))
            (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(header + numbers.tobytes())

    return make


def _cifar(kind: Any, key: str) -> Maker:  # noqa: ANN401 one of two classes
    def make(entry: VisionEntry, root: Path) -> None:
        folder = root / kind.base_folder
        folder.mkdir()
        for split, files in (("train", kind.train_list), ("test", kind.test_list)):
            labels = np.array_split(labels_of(len(entry["classes"]), split), len(files))
            for (name, _), part in zip(files, labels, strict=True):
                images = [pixels(each, side=32).transpose(2, 0, 1).reshape(-1) for each in part]
                batch = {"data": np.stack(images), key: part.tolist()}
                (folder / name).write_bytes(pickle.dumps(batch))
        meta = {kind.meta["key"]: entry["classes"]}
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))

    return make


def _svhn(entry: VisionEntry, root: Path) -> None:
    for split in SIZES:
        labels = labels_of(len(entry["classes"]), split)
        images = np.stack([pixels(each, side=32) for each in labels], axis=-1)
        numbers = np.array([[each or 10] for each in labels], dtype=np.uint8)
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": images, "y": numbers})


def _stl10(entry: VisionEntry, root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir()
    (folder / "class_names.txt").write_text("\n".join(entry["classes"]) + "\n")
    (folder / "unlabeled_X.bin").write_bytes(bytes(3 * 96 * 96))
    for split in SIZES:
        labels = labels_of(len(entry["classes"]), split)
        images = [pixels(each, side=96).transpose(2, 1, 0) for each in labels]
        (folder / f"{split}_X.bin").write_bytes(np.stack(images).tobytes())
        (folder / f"{split}_y.bin").write_bytes((np.array(labels, dtype=np.uint8) + 1).tobytes())


def _flowers(entry: VisionEntry, root: Path) -> None:
    folder = root / "flowers-102"
    folder.mkdir()
    numbers: list[int] = []
    ids: dict[str, list[int]] = {"valid": [1]}
    for split, key in (("train", "trnid"), ("test", "tstid")):
        labels = labels_of(len(entry["classes"]), split)
        ids[key] = list(range(len(numbers) + 1, len(numbers) + len(labels) + 1))
        for number, label in zip(ids[key], labels, strict=True):
            _save(folder / "jpg" / f"image_{number:05d}.jpg", label)
        numbers += [label + 1 for label in labels]
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([numbers], dtype=np.uint8)})
    scipy.io.savemat(folder / "setid.mat", {key: np.array([each]) for key, each in ids.items()})


def _cars(entry: VisionEntry, root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array([entry["classes"]], dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    tables = {
        "train": folder / "devkit" / "cars_train_annos.mat",
        "test": folder / "cars_test_annos_withlabels.mat",
    }
    for split, path in tables.items():
        labels = labels_of(len(entry["classes"]), split)
        rows = np.empty((1, len(labels)), dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
        for number, label in enumerate(labels):
            rows[0, number] = (1, np.uint8(label + 1), f"{number + 1:05d}.jpg")
            _save(folder / f"cars_{split}" / f"{number + 1:05d}.jpg", label)
        scipy.io.savemat(path, {"annotations": rows})


def _dtd(entry: VisionEntry, root: Path) -> None:
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{name}/{name}_{number:04d}.jpg" for name in entry["classes"]]
        (folder / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")
        for label, name in enumerate(names):
            _save(folder / "images" / name, label)


def _food(entry: VisionEntry, root: Path) -> None:
    folder = root / "food-101"
    (folder / "meta").mkdir(parents=True)
    for split, size in SIZES.items():
        listed: dict[str, list[str]] = {}
        for label, title in enumerate(entry["classes"]):
            name = title.replace(" ", "_")
            listed[name] = [f"{name}/{split}{number}" for number in range(size)]
            for each in listed[name]:
                _save(folder / "images" / f"{each}.jpg", label)
        (folder / "meta" / f"{split}.json").write_text(json.dumps(listed))


def _pets(entry: VisionEntry, root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for split, size in (("trainval", SIZES["train"]), ("test", SIZES["test"])):
        lines = []
        for label, name in enumerate(entry["classes"]):
            for number in range(size):
                lines.append(f"{name}_{split}{number} {label + 1} 1 1")
                _save(folder / "images" / f"{name}_{split}{number}.jpg", label)
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")


def _signs(entry: VisionEntry, root: Path) -> None:
    folder = root / "gtsrb"
    for label in range(len(entry["classes"])):
        for number in range(SIZES["train"]):
            name = f"{label:05d}/00000_{number:05d}.ppm"
            _save(folder / "GTSRB" / "Training" / name, label)
    with (folder / "GT-final_test.csv").open("w", newline="") as stream:
        table = csv.writer(stream, delimiter=";")
        table.writerow(["Filename", "Width", "Height", "Roi.X1", "ClassId"])
        for number, label in enumerate(labels_of(len(entry["classes"]), "test")):
            table.writerow([f"{number:05d}.ppm", 10, 8, 1, label])
            _save(folder / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm", label)


def _scenes(entry: VisionEntry, root: Path) -> None:
    folder = root / "SUN397"
    folders = {"apartment building outdoor": "apartment_building/outdoor"}
    folders |= {"jail indoor": "jail/indoor"}
    for split, name in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        lines = []
        for label in scenes():
            title = entry["classes"][label]
            below = folders.get(title, title.replace(" ", "_"))
            for number in range(SIZES[split]):
                lines.append(f"/{title[0]}/{below}/sun_{split}{number}.jpg")
                _save(folder / lines[-1].lstrip("/"), label)
        (folder / name).write_text("\n".join(lines) + "\n")


def _faces(entry: VisionEntry, root: Path) -> None:
    (root / "fer2013").mkdir()
    with (root / "fer2013" / "fer2013.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["emotion", "pixels", "Usage"])
        for label in labels_of(len(entry["classes"]), "train"):
            table.writerow([label, " ".join([str(shade(label))] * 48 * 48), "Training"])
        for label in labels_of(len(entry["classes"]), "test"):
            usage = "PublicTest" if label < 3 else "PrivateTest"
            table.writerow([label, " ".join([str(shade(label))] * 48 * 48), usage])


def _reviews(entry: VisionEntry, root: Path) -> None:
    for split, size in SIZES.items():
        for label, name in enumerate(entry["classes"]):
            for number in range(size):
                _save(root / "rendered-sst2" / split / name / f"{number}.png", label)


def _tables(*, names: bool = True) -> SizedMaker:
    """Makes Parquet files like `datasets`: structs of bytes and path, features in the metadata."""

    def make(entry: VisionEntry, root: Path, *, sizes: Mapping[str, int] = SIZES) -> None:
        folder = root / entry["source"]["hub"].replace("/", "--") / "data"
        folder.mkdir(parents=True)
        for split in SIZES:
            labels = labels_of(len(entry["classes"]), split, sizes=sizes)
            halves = np.array_split(labels, 2)
            for number, half in enumerate(halves):
                table = hub_table(half, classes=entry["classes"] if names else None)
                path = folder / f"{split}-{number:05d}-of-00002.parquet"
                pq.write_table(table, path, row_group_size=max(3, len(half) // 100))

    return make


def hub_table(labels: Sequence[int], *, classes: list[str] | None) -> pa.Table:
    """Returns a table like Hugging Face's `datasets`; without names, labels are booleans."""
    cells = [{"bytes": _png(int(label)), "path": None} for label in labels]
    kind = pa.int64() if classes else pa.bool_()
    values = [int(label) if classes else bool(label) for label in labels]
    table = pa.table(
        {
            "image": pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "label": pa.array(values, kind),
        }
    )
    label = {"names": classes, "_type": "ClassLabel"} if classes else {"dtype": "bool"}
    features = {"image": {"_type": "Image"}, "label": label}
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


@cache
def _png(label: int) -> bytes:
    stream = io.BytesIO()
    picture(label).save(stream, "png")
    return stream.getvalue()


_MNIST = {"train": "train", "test": "t10k"}
_LETTERS = {"train": "emnist-letters-train", "test": "emnist-letters-test"}

MAKERS: dict[str, Maker] = {
    "cifar10": _cifar(datasets.CIFAR10, "labels"),
    "cifar100": _cifar(datasets.CIFAR100, "fine_labels"),
    "dtd": _dtd,
    "emnist_letters": _idx("EMNIST", _LETTERS, first=1),
    "eurosat": _tables(),
    "fashion_mnist": _idx("FashionMNIST", _MNIST),
    "fer2013": _faces,
    "food101": _food,
    "gtsrb": _signs,
    "kmnist": _idx("KMNIST", _MNIST),
    "mnist": _idx("MNIST", _MNIST),
    "oxford_flowers102": _flowers,
    "oxford_iiit_pet": _pets,
    "pcam": _tables(names=False),
    "rendered_sst2": _reviews,
    "resisc45": _tables(),
    "stanford_cars": _cars,
    "stl10": _stl10,
    "sun397": _scenes,
    "svhn": _svhn,
}

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from eval.images.protocol import ImageSourceError
from eval.vision.catalogue import read_catalogue
from eval.vision.published import open_vision

NAMES = tuple(read_catalogue())
SIDES = {"svhn": 32, "cifar10": 32, "cifar100": 32, "stl10": 96, "fer2013": 48}
GREY_SIDE = 28


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_opens_from_the_files_it_is_published_in(
    name: str,
    vision_root: Path,
    made_labels: Callable[[str, str], list[int]],
    shade_of: Callable[[int], int],
) -> None:
    """Labels are positions in the catalogue's classes, and images match their labels."""
    channels = read_catalogue()[name]["channels"]
    for split, source in open_vision(name, root=vision_root, check_counts=False).items():
        assert source.labels.dtype == np.int64
        assert sorted(source.labels.tolist()) == sorted(made_labels(name, split))
        for index in (0, len(source.labels) // 2, len(source.labels) - 1):
            image = source.image(index)
            shade = shade_of(int(source.labels[index]))
            side = SIDES.get(name, GREY_SIDE)
            square = channels == 1 or name in SIDES
            assert image.dtype == np.uint8
            assert image.shape == ((side, side) if square else (8, 10)) + (channels,)
            expected = (shade, 255 - shade, 128)[:channels]
            assert np.abs(np.median(image, axis=(0, 1)) - expected).max() <= 4


@pytest.mark.parametrize("name", NAMES)
def test_part_of_a_data_set_is_refused_with_both_numbers(name: str, vision_root: Path) -> None:
    """An incomplete download is not read as a smaller data set."""
    expected = f"{read_catalogue()[name]['num_train']:,}"
    with pytest.raises(ImageSourceError, match=rf"{name}, train .* images, .* has {expected}"):
        open_vision(name, root=vision_root)


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_reported_with_place_and_remedy(name: str, tmp_path: Path) -> None:
    """The message has the directory, the expected files, and how to get them."""
    source = read_catalogue()[name]["source"]
    with pytest.raises(ImageSourceError) as caught:
        open_vision(name, root=tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert source.get("files", source.get("hub", "")) in message
    assert source.get("by_hand", f"python -m eval.vision.download {name} --root") in message


def test_letters_stand_upright_and_are_numbered_from_0(vision_root: Path) -> None:
    """The file has transposed letters from 1: the mark in row 3, column 20 changes places."""
    for name, place in [("emnist_letters", (20, 3)), ("mnist", (3, 20))]:
        train = open_vision(name, root=vision_root, check_counts=False)["train"]
        assert int(train.labels[0]) == 0
        assert np.argwhere(train.image(0)[..., 0] == 255).tolist() == [list(place)]


def test_labels_need_no_image(vision_root: Path, tmp_path: Path) -> None:
    """A damaged image is found and named only when it is read."""
    root = Path(shutil.copytree(vision_root / "dtd", tmp_path / "dtd")).parent
    for path in root.rglob("banded_*.jpg"):
        path.write_bytes(b"no image")
    train = open_vision("dtd", root=root, check_counts=False)["train"]
    assert train.labels.tolist() == [*range(47), *range(47)]
    train.image(1)
    with pytest.raises(ImageSourceError, match=r"banded_0000\.jpg: cannot be decoded"):
        train.image(0)


def test_two_official_splits_are_read_one_after_the_other(vision_root: Path) -> None:
    """DTD's training images are its `train` and `val` lists, as in FusionBench."""
    train = open_vision("dtd", root=vision_root, check_counts=False)["train"]
    assert (train.image(46) == train.image(46 + 47)).all()
    assert int(train.labels[46]) == int(train.labels[46 + 47]) == 46


def test_classes_other_than_the_catalogues_are_refused(vision_root: Path, tmp_path: Path) -> None:
    """A missing class would shift the labels of all later classes."""
    root = Path(shutil.copytree(vision_root / "dtd", tmp_path / "dtd")).parent
    listed = root / "dtd" / "dtd" / "labels" / "test1.txt"
    listed.write_text(listed.read_text().replace("blotchy", "blotched"))
    with pytest.raises(ImageSourceError, match="'blotched', not 'blotchy'"):
        open_vision("dtd", root=root, check_counts=False)


def test_scene_of_no_class_is_refused(vision_root: Path, tmp_path: Path) -> None:
    """SUN397's lists have names, not numbers, so unknown names must be reported."""
    root = Path(shutil.copytree(vision_root / "SUN397", tmp_path / "SUN397")).parent
    (root / "SUN397" / "Testing_01.txt").write_text("/m/moon_base/sun_a.jpg\n")
    with pytest.raises(ImageSourceError, match="no classes of SUN397: moon base"):
        open_vision("sun397", root=root, check_counts=False)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/test_batch"),
        ("cifar100", "cifar-100-python/meta"),
        ("svhn", "test_32x32.mat"),
        ("stl10", "stl10_binary/test_y.bin"),
        ("oxford_flowers102", "flowers-102/setid.mat"),
        ("fer2013", "fer2013/fer2013.csv"),
    ],
)
def test_files_with_known_digests_are_checked_when_opened(
    name: str, file: str, vision_root: Path, tmp_path: Path
) -> None:
    """A changed file is refused before a pickle in it is read."""
    top = file.split("/", maxsplit=1)[0]
    if (vision_root / top).is_dir():
        shutil.copytree(vision_root / top, tmp_path / top)
    else:
        shutil.copy(vision_root / "train_32x32.mat", tmp_path)
        shutil.copy(vision_root / file, tmp_path)
    open_vision(name, root=tmp_path, check_counts=False)
    with (tmp_path / file).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ImageSourceError, match=rf"{name}, .* split: {tmp_path}: "):
        open_vision(name, root=tmp_path, check_counts=False)


def test_greyscale_photographs_among_colours_get_three_channels(
    vision_root: Path, tmp_path: Path
) -> None:
    """SUN397, Pets and other data sets have some grey photographs."""
    root = Path(shutil.copytree(vision_root / "oxford-iiit-pet", tmp_path / "oxford-iiit-pet"))
    Image.new("L", (10, 8), 77).save(root / "images" / "abyssinian_test0.jpg")
    test = open_vision("oxford_iiit_pet", root=tmp_path, check_counts=False)["test"]
    assert test.image(0).tolist() == np.full((8, 10, 3), 77).tolist()


def test_digests_are_those_of_torchvision() -> None:
    """The digests in the fingerprints are those that torchvision checks downloads against."""
    known = {
        "dtd": datasets.DTD._MD5,
        "emnist_letters": datasets.EMNIST.md5,
        "cifar10": datasets.CIFAR10.tgz_md5,
        "cifar100": datasets.CIFAR100.tgz_md5,
        "food101": datasets.Food101._MD5,
        "rendered_sst2": datasets.RenderedSST2._MD5,
        "stl10": datasets.STL10.tgz_md5,
        "sun397": datasets.SUN397._DATASET_MD5,
    }
    for name, md5 in known.items():
        assert list(read_catalogue()[name]["source"]["digests"].values()) == [f"md5:{md5}"]
    for name, kind in [
        ("mnist", datasets.MNIST),
        ("kmnist", datasets.KMNIST),
        ("fashion_mnist", datasets.FashionMNIST),
    ]:
        digests = {file: f"md5:{md5}" for file, md5 in kind.resources}
        assert read_catalogue()[name]["source"]["digests"] == digests


@pytest.mark.parametrize("name", NAMES)
def test_templates_have_one_place_for_the_class(name: str) -> None:
    """`str.format` fills in exactly one class name."""
    templates = read_catalogue()[name]["templates"]
    assert templates
    assert all(each.count("{}") == each.count("{") == 1 for each in templates)

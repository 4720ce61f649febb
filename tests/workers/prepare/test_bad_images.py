import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from own_sets import png

from eval.images.protocol import BadImagesError, ImageSourceError
from eval.images.shards import open_shard
from eval.open_images import open_images
from eval.own.files import OwnFiles
from eval.own.task import describe_own_task
from eval.task_source import TaskSource
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.node_cache import NodeCache
from workers.prepare.images import ImagePreparation, OpenedTask
from workers.specs.data import DataSpec, OnBadImage
from workers.store.local import LocalStore

BAD: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be decoded: the file is empty"),
    "page": (b"<!DOCTYPE html><html>", "cannot be decoded: it is a web page (HTML)"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "`git lfs pull` fetches"),
    "torn": (png()[:45], "cannot be decoded: "),
    "zeros": (bytes(500), "it begins with zeros"),
}
Prepare = Callable[[OnBadImage], Manifest]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Makes a folder of two classes with six images of each per split."""
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(6):
                path = tmp_path / "pets" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(number))
    return tmp_path / "pets"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Returns an empty store."""
    return LocalStore(tmp_path / "store")


@pytest.fixture
def prepare(folder: Path, store: LocalStore, tmp_path: Path) -> Prepare:
    """Returns a function that prepares the folder's images, in shards of four."""

    def prepare(on_bad_image: OnBadImage) -> Manifest:
        files = OwnFiles(layout="folder", place=str(folder))
        task = describe_own_task("pets", files=files, root=tmp_path)
        spec = DataSpec(
            task="pets",
            fingerprint=task.fingerprint,
            image_size=8,
            max_train=None,
            max_test=None,
            evaluate_on="test",
            on_bad_image=on_bad_image,
        )
        sources = open_images(TaskSource(task=task, files=files))
        *_, last = ImagePreparation(
            OpenedTask(spec=spec, task=task, sources=sources),
            artifacts=Artifacts(store),
            num_threads=2,
            shard_bytes=4 * 8 * 8 * 3,
        ).run()
        assert last.committed is not None
        return last.committed

    return prepare


def damage(folder: Path) -> None:
    for name, (content, _) in BAD.items():
        split = "test" if name == "torn" else "train"
        (folder / split / "cat" / f"{name}.png").write_bytes(content)


def test_all_bad_images_are_named_with_their_reasons(folder: Path, prepare: Prepare) -> None:
    """One error lists both splits, a line for each file, and survives the way to the driver."""
    damage(folder)
    with pytest.raises(BadImagesError) as caught:
        prepare("refuse")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.num_images) == (str(caught.value), len(BAD))
    lines = str(error).split("\n")
    assert lines[0] == "task 'pets': 5 images cannot be used"
    assert len(lines) == 6
    for name, (_, told) in BAD.items():
        (line,) = (each for each in lines if f"/{name}.png: " in each)
        assert told in line
    assert "BytesIO" not in str(error)


def test_long_list_of_bad_images_has_twenty_and_a_count(folder: Path, prepare: Prepare) -> None:
    """The count is that of all images."""
    for number in range(30):
        (folder / "train" / "dog" / f"bad{number}.png").write_bytes(b"no image")
    with pytest.raises(BadImagesError) as caught:
        prepare("refuse")
    lines = str(caught.value).split("\n")
    assert (len(lines), lines[-1]) == (22, "and 10 more")


def test_skipped_images_are_left_out_and_counted(
    folder: Path, prepare: Prepare, store: LocalStore, tmp_path: Path
) -> None:
    """The other images are those of a folder without the bad ones, under an id of their own."""
    clean = prepare("refuse")
    damage(folder)
    manifest = prepare("skip")
    assert manifest.id != clean.id
    assert manifest.spec["on_bad_image"] == "skip"
    assert (manifest.metrics["num_train"], manifest.metrics["num_test"]) == (12, 12)
    skipped = manifest.metrics["skipped"]
    assert skipped["num_images"] == 5
    assert any("torn.png: cannot be decoded" in each for each in skipped["first"])
    assert not any(each.startswith("/") for each in skipped["first"])
    cache = NodeCache(tmp_path / "cache")
    artifacts = Artifacts(store)
    shards = [open_shard(artifacts.fetch(manifest, each.name, cache)) for each in manifest.files]
    assert np.bincount(np.concatenate([shard.labels for shard in shards])).tolist() == [12, 12]


def test_nothing_to_skip_is_counted_as_nothing(prepare: Prepare) -> None:
    """The option alone does not change the images."""
    manifest = prepare("skip")
    assert manifest.metrics["skipped"] is None
    assert manifest.metrics["num_train"] == 12


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("test/cat/*.png", "no image of class cat in its test split can be used"),
        ("train/*/*.png", "no image of its train split can be used; all 12 were skipped"),
    ],
)
def test_split_or_class_without_usable_images_is_refused(
    folder: Path, prepare: Prepare, pattern: str, told: str
) -> None:
    """Skipping never ends in an empty class."""
    for path in folder.glob(pattern):
        path.write_bytes(b"")
    with pytest.raises(ImageSourceError, match=told):
        prepare("skip")


def test_file_that_this_machine_cannot_read_is_not_skipped(
    folder: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may read it, and would store other images under the same id."""
    damage(folder)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "3.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadImagesError, match=r"4 images cannot be used") as caught:
        prepare("skip")
    assert "3.png: cannot be read: Permission denied" in str(caught.value)


def test_specification_names_the_option_only_where_it_is_set() -> None:
    """Images of earlier releases keep their ids."""
    spec = DataSpec(
        task="pets",
        fingerprint="0" * 64,
        image_size=8,
        max_train=None,
        max_test=None,
        evaluate_on="test",
    )
    assert "on_bad_image" not in spec.to_json()
    skipping = replace(spec, on_bad_image="skip")
    assert DataSpec.from_json(skipping.to_json()) == skipping
    assert skipping.id != spec.id

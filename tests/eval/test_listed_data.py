from pathlib import Path

import pytest
from PIL import Image

from eval.listed_data import list_data
from eval.own.files import OwnFiles
from eval.own.task import describe_own_task
from eval.suites import find_task
from eval.task_source import TaskSource


@pytest.fixture
def own(tmp_path: Path) -> TaskSource:
    """Makes a task of three training images and two test images in two classes."""
    for name in ("train/oak/0", "train/oak/1", "train/elm/0", "test/oak/0", "test/elm/0"):
        path = tmp_path / "trees" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    files = OwnFiles(layout="folder", place=str(tmp_path / "trees"))
    task = describe_own_task("trees", files=files, root=tmp_path)
    return TaskSource(task=task, files=files)


def test_labels_of_own_files_are_listed(own: TaskSource) -> None:
    """Labels stand in the order of the image sources: class by class."""
    labels = list_data(own).labels
    assert labels is not None
    assert {split: each.tolist() for split, each in labels.items()} == {
        "train": [0, 1, 1],
        "test": [0, 1],
    }


def test_labels_of_files_elsewhere_are_not_known(own: TaskSource, tmp_path: Path) -> None:
    """A machine without the files, or with other files, lists nothing and raises nothing."""
    (tmp_path / "trees/test/oak/0.png").unlink()
    assert list_data(own).labels is None
    (tmp_path / "trees").rename(tmp_path / "elsewhere")
    assert list_data(own).labels is None


def test_labels_of_published_tasks_need_their_readers() -> None:
    """The driver does not load torch to read them."""
    assert list_data(TaskSource(task=find_task("mnist"))).labels is None
    assert list_data(TaskSource(task=find_task("mnist_5k"))).labels is not None


def test_files_that_are_left_out_are_counted_by_reason(own: TaskSource, tmp_path: Path) -> None:
    """One text covers both splits."""
    for name in ("train/.DS_Store", "test/oak/.DS_Store"):
        (tmp_path / "trees" / name).write_bytes(b"x")
    (text,) = list_data(own).left_out
    assert text.endswith(": 2 (train/.DS_Store, test/oak/.DS_Store)")

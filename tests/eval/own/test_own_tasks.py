import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.hub_snapshots import snapshot_directory
from eval.images.protocol import ImageSourceError
from eval.open_images import open_images
from eval.own.files import OwnFiles, OwnTaskError
from eval.own.task import describe_own_task, list_own_files
from eval.suites import find_task
from eval.task_source import TaskSource, source_from_json, source_to_json
from eval.tasks import Task

REVISION = "0123456789abcdef0123456789abcdef01234567"
COLOURS = {"daisy": (250, 240, 10), "rose": (200, 10, 30)}


@pytest.fixture
def flowers(tmp_path: Path) -> OwnFiles:
    """Makes a folder of two classes, with three training and two test images each."""
    for split, size in (("train", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            for number in range(size):
                path = tmp_path / "flowers" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (6 + number, 5), colour).save(path)
    return OwnFiles(layout="folder", place=str(tmp_path / "flowers"))


def write_table(path: Path, labels: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = []
    for number, _ in enumerate(labels):  # type: ignore[arg-type, var-annotated]
        stream = io.BytesIO()
        Image.new("RGB", (6, 5), (number, 0, 0)).save(stream, "png")
        cells.append(stream.getvalue())
    pq.write_table(pa.table({"picture": cells, "kind": labels}), path)


@pytest.fixture
def animals(tmp_path: Path) -> OwnFiles:
    """Makes Parquet files with string labels and unusual column names."""
    write_table(tmp_path / "animals" / "train-0.parquet", ["newt", "crow", "newt"])
    write_table(tmp_path / "animals" / "train-1.parquet", ["crow"])
    write_table(tmp_path / "animals" / "val.parquet", ["crow", "newt"])
    place = str(tmp_path / "animals")
    return OwnFiles(layout="tables", place=place, image="picture", label="kind")


def described(files: OwnFiles) -> Task:
    return describe_own_task("mine", files=files, root=Path("/nowhere"))


def problems(files: OwnFiles) -> str:
    with pytest.raises(OwnTaskError) as caught:
        described(files)
    return "; ".join(caught.value.problems)


def test_folder_is_a_task(flowers: OwnFiles) -> None:
    """The task has the folders as classes, and every image has its label."""
    task = described(flowers)
    assert task.classes == ("daisy", "rose")
    assert (task.num_train, task.num_test, task.channels) == (6, 4, 3)
    sources = open_images(TaskSource(task=task, files=flowers))
    for split, size in (("train", 3), ("test", 2)):
        labels = sources[split].labels.tolist()
        assert labels == [0] * size + [1] * size
        for index, label in enumerate(labels):
            image = sources[split].image(index)
            assert image.shape == (5, 6 + index % size, 3)
            assert tuple(image[0, 0]) == COLOURS[task.classes[label]]


def test_tables_are_a_task(animals: OwnFiles) -> None:
    """Splits may have several files, the test split may be `val`, and strings are sorted."""
    task = described(animals)
    assert task.classes == ("crow", "newt")
    sources = open_images(TaskSource(task=task, files=animals))
    assert sources["train"].labels.tolist() == [1, 0, 1, 0]
    assert sources["test"].labels.tolist() == [0, 1]
    assert [int(sources["train"].image(n)[0, 0, 0]) for n in range(4)] == [0, 1, 2, 0]


def test_one_channel_makes_images_grey(flowers: OwnFiles) -> None:
    """One channel instead of three makes another task."""
    grey = replace(flowers, channels=1)
    task = described(grey)
    assert open_images(TaskSource(task=task, files=grey))["train"].image(0).shape == (5, 6, 1)
    assert task.fingerprint != described(flowers).fingerprint


def test_fingerprint_is_of_the_content_and_not_of_the_place(
    flowers: OwnFiles, tmp_path: Path
) -> None:
    """A copy is the same task; another image, file name or split of an image is another task."""
    before = described(flowers).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(flowers.place, copy)
    (copy / ".DS_Store").write_bytes(b"left behind")
    moved = replace(flowers, place=str(copy))
    assert described(moved).fingerprint == before
    Image.new("RGB", (6, 5), (1, 2, 3)).save(copy / "train" / "rose" / "0.png")
    changed = described(moved).fingerprint
    (copy / "train" / "rose" / "0.png").rename(copy / "train" / "rose" / "9.png")
    renamed = described(moved).fingerprint
    assert len({before, changed, renamed}) == 3


def test_files_that_changed_since_the_plan_are_refused(flowers: OwnFiles) -> None:
    """The content of the files is in the ids of all artifacts that are made from them."""
    source = TaskSource(task=described(flowers), files=flowers)
    Image.new("RGB", (6, 5)).save(Path(flowers.place) / "train" / "rose" / "new.png")
    with pytest.raises(ImageSourceError, match="are not those that were planned for: 7 training"):
        open_images(source)


def test_files_that_make_no_task_are_reported(flowers: OwnFiles, tmp_path: Path) -> None:
    """A missing directory, split or class and a file that is no image are reported."""
    assert "is no directory on this machine" in problems(replace(flowers, place="/nowhere"))
    (tmp_path / "empty").mkdir()
    found = problems(replace(flowers, place=str(tmp_path / "empty")))
    assert "no folder train" in found
    assert "no folder test or val" in found
    base = Path(flowers.place)
    (base / "train" / "tulip").mkdir()
    (base / "test" / "rose" / "scan.heic").write_text("x")
    (base / "test" / "late.png").write_text("x")
    found = problems(flowers)
    assert f"{base / 'test'} has no class tulip, which the other split has" in found
    assert "files whose names are not those of images: rose/scan.heic" in found
    assert "files that lie in no class folder: late.png" in found


def test_classes_need_images_and_a_choice(flowers: OwnFiles) -> None:
    """A task needs two classes, and each split an image of each class."""
    base = Path(flowers.place)
    for path in (base / "test" / "rose").iterdir():
        path.unlink()
    assert problems(flowers) == "no image of class rose in its test split"
    for split in ("train", "test"):
        shutil.rmtree(base / split / "rose")
    assert "it has 1 class, and at least two are needed" in problems(flowers)


def test_integer_labels_need_names(tmp_path: Path) -> None:
    """`classes` must name as many labels as there are."""
    for split in ("train", "test"):
        write_table(tmp_path / f"{split}.parquet", [0, 1, 2])
    files = OwnFiles(layout="tables", place=str(tmp_path), image="picture", label="kind")
    assert "its labels are integers without names" in problems(files)
    assert "labels from 0 to 2, but 2 classes" in problems(replace(files, classes=("a", "b")))
    assert described(replace(files, classes=("a", "b", "c"))).num_classes == 3


def test_test_label_that_is_no_class_is_reported(animals: OwnFiles) -> None:
    """A string in the test split that no training image has is reported."""
    write_table(Path(animals.place) / "val.parquet", ["crow", "wolf"])
    assert "val.parquet: its labels 'wolf' are not among the classes" in problems(animals)


def test_missing_column_and_split_of_tables_are_reported(animals: OwnFiles) -> None:
    """The message has the existing columns and the expected file names."""
    assert "no column 'image'; its columns are" in problems(replace(animals, image="image"))
    (Path(animals.place) / "val.parquet").unlink()
    assert "no .parquet or .arrow file of the split test or val" in problems(animals)


def test_snapshot_of_the_hub_is_a_task(tmp_path: Path) -> None:
    """Both layouts work, and name and revision identify the task without hashing files."""
    files = OwnFiles(
        layout="hub",
        place="me/birds",
        revision=REVISION,
        image="picture",
        label="kind",
        classes=("a", "b"),
    )
    local, cached = tmp_path / "local", tmp_path / "cached"
    for folder in (
        local / "me--birds" / "data",
        cached / "datasets--me--birds" / "snapshots" / REVISION / "data",
    ):
        write_table(folder / "train-00000-of-00001.parquet", [0, 1])
        write_table(folder / "test-00000-of-00001.parquet", [1, 0])
    first, second = (describe_own_task("birds", files=files, root=root) for root in (local, cached))
    assert first == second
    source = TaskSource(task=first, files=files, root=str(cached))
    assert open_images(source)["test"].labels.tolist() == [1, 0]
    later = replace(files, revision="f" * 40)
    assert describe_own_task("birds", files=later, root=local).fingerprint != first.fingerprint


def test_snapshot_of_another_revision_is_refused(tmp_path: Path) -> None:
    """The error has the revision that `huggingface_hub` recorded, and the remedy."""
    notes = tmp_path / "me--birds" / ".cache" / "huggingface" / "download" / "data"
    notes.mkdir(parents=True)
    (notes / "train.parquet.metadata").write_text(f"{REVISION}\netag\n1.5\n")
    found = snapshot_directory("me/birds", revision=REVISION, root=tmp_path, remedy="")
    assert found == tmp_path / "me--birds"
    wanted = rf"have revision {REVISION}, not f+\. Get it so\."
    with pytest.raises(ImageSourceError, match=wanted):
        snapshot_directory("me/birds", revision="f" * 40, root=tmp_path, remedy="Get it so.")


def test_source_comes_back_from_json(flowers: OwnFiles) -> None:
    """An own task is stored with its files, a catalogued task by its name."""
    own = TaskSource(task=described(flowers), files=flowers, root="/data")
    assert source_from_json("mine", source_to_json(own)) == own
    published = TaskSource(task=find_task("mnist"), root="/data")
    assert source_from_json("mnist", source_to_json(published)) == published
    assert source_from_json("mnist", None) == TaskSource(task=find_task("mnist"))


def test_embedded_sources_are_those_that_are_composed() -> None:
    """Labels and images of an embedded task need no files of the user."""
    sources = open_images(TaskSource(task=find_task("mnist_5k")))
    task = find_task("mnist_5k")
    assert [len(sources[split].labels) for split in ("train", "test")] == [
        task.num_train,
        task.num_test,
    ]
    assert np.unique(sources["test"].labels).tolist() == list(range(task.num_classes))
    assert sources["test"].image(0).shape == (28, 28, 1)


def test_files_that_are_left_out_are_counted(flowers: OwnFiles, animals: OwnFiles) -> None:
    """A listing has the images of each class, and the files that it does not use by reason."""
    base = Path(flowers.place)
    (base / "train" / "rose" / ".DS_Store").write_bytes(b"x")
    (base / "train" / "Thumbs.db").write_bytes(b"x")
    listing = list_own_files("mine", files=flowers, root=Path("/nowhere"))
    assert listing.class_counts("train") == (3, 3)
    assert listing.left_out["test"] == ()
    assert [str(each) for each in listing.left_out["train"]] == [
        "hidden files and files of file managers: 2 (train/Thumbs.db, train/rose/.DS_Store)"
    ]
    assert list_own_files("mine", files=animals, root=Path("/nowhere")).class_counts("train") == (
        2,
        2,
    )

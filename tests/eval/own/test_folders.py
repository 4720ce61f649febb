import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from own_sets import fingerprint, listed, png, problems

from eval.file_tree import HIDDEN
from eval.own.files import OUTSIDE, OwnFiles
from eval.own.folders import SIDE


@pytest.fixture
def pets(folder: Path) -> OwnFiles:
    """Returns a task of two classes with two images of each per split."""
    return OwnFiles(layout="folder", place=str(folder))


def left_out(files: OwnFiles, split: str) -> list[str]:
    return [str(each) for each in listed(files).left_out[split]]


def test_linked_folders_count_like_their_content(
    pets: OwnFiles, folder: Path, tmp_path: Path
) -> None:
    """Linked splits, classes and folders inside a class give the fingerprint of a copy."""
    before = fingerprint(pets)
    shutil.move(folder / "train", tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    shutil.move(folder / "test" / "cat", tmp_path / "cats")
    (folder / "test" / "cat").symlink_to(tmp_path / "cats")
    assert fingerprint(pets) == before
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "9.png").write_bytes(png(9))
    (folder / "train" / "cat" / "part2").symlink_to(tmp_path / "more")
    listing = listed(pets)
    assert listing.class_counts("train") == (3, 2)
    assert "cat/part2/9.png" in [name for name, _ in listing.paths["train"]]


def test_entries_that_cannot_be_read_are_told_together(pets: OwnFiles, folder: Path) -> None:
    """A loop, a broken link and a pipe are refused; a broken link of a note is not."""
    base = folder / "train" / "cat"
    (base / "again").symlink_to("..")
    (base / "gone.png").symlink_to("nowhere")
    (base / "notes.txt").symlink_to("nowhere")
    os.mkfifo(folder / "test" / "dog" / "pipe.png")
    found = problems(pets).split("\n")
    assert len(found) == 3
    assert f"{base / 'again'} is a link to {folder / 'train'}, a folder that contains it" in found
    assert f"{base / 'gone.png'} is a link to nowhere, which cannot be opened" in found


def test_file_without_permission_is_told(
    pets: OwnFiles, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files that cannot be read are named, the first twenty and a count."""
    for number in range(30):
        (folder / "train" / "cat" / f"closed{number:02d}.png").write_bytes(png())
    hashed = "eval.own.task.sha256_of_file"

    def refuse(path: Path) -> str:
        if path.name.startswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return "0" * 64

    monkeypatch.setattr(hashed, refuse)
    found = problems(pets).split("\n")
    assert found[0] == f"{folder / 'train/cat/closed00.png'} cannot be read: Permission denied"
    assert found[-1] == "and 10 more problems"
    assert len(found) == 21


def test_files_of_tools_and_notes_are_left_out_and_counted(pets: OwnFiles, folder: Path) -> None:
    """They change neither the images nor the fingerprint."""
    before = fingerprint(pets)
    for name in (
        *("train/notes.txt", "train/cat/labels.CSV", "train/dog/README", "train/cat/.a.png"),
        *("train/cat/.ipynb_checkpoints/0.png", "train/@eaDir/0.png", "train/dog/__MACOSX/0.png"),
        *("__MACOSX/0.png", "README.md", "unlabelled/0.png"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png())
    assert fingerprint(pets) == before
    assert left_out(pets, "test") == []
    hidden = ("@eaDir/", "cat/.a.png", "cat/.ipynb_checkpoints/", "dog/__MACOSX/")
    assert left_out(pets, "train") == [
        f"{SIDE}: 3 (train/cat/labels.CSV, train/dog/README, train/notes.txt)",
        f"{HIDDEN}: 4 ({', '.join(f'train/{each}' for each in hidden)})",
    ]
    assert left_out(pets, OUTSIDE) == [
        "files and folders beside the splits: 2 (README.md, unlabelled/)",
        "hidden files and files of file managers: 1 (__MACOSX/)",
    ]


def test_files_that_may_be_images_are_refused_or_ignored(pets: OwnFiles, folder: Path) -> None:
    """`ignore` leaves them out, with a count and without another fingerprint."""
    before = fingerprint(pets)
    (folder / "train" / "cat" / "a.svg").write_text("x")
    (folder / "train" / "drafts").mkdir()
    (folder / "train" / "drafts" / "b.png").write_bytes(png())
    assert "train has files whose names are not those of images: cat/a.svg" in problems(pets)
    assert "test has no class drafts, which the other split has" in problems(pets)
    ignoring = replace(pets, ignore=("*.svg", "train/drafts"))
    assert fingerprint(ignoring) == before
    assert left_out(ignoring, "train") == [
        "files that `ignore` names: 2 (train/cat/a.svg, train/drafts/)"
    ]


@pytest.mark.parametrize("suffix", [".JPG", ".jfif", ".avif", ".jpe", ".tiff"])
def test_all_usual_suffixes_are_images(pets: OwnFiles, folder: Path, suffix: str) -> None:
    """Upper case counts too."""
    (folder / "train" / "cat" / f"new{suffix}").write_bytes(png())
    assert listed(pets).class_counts("train") == (3, 2)


def test_test_split_can_be_chosen(pets: OwnFiles, folder: Path) -> None:
    """An unlabelled `test` beside `val` is refused with the way out, which changes no id."""
    before = fingerprint(pets)
    (folder / "test").rename(folder / "val")
    (folder / "test").mkdir()
    (folder / "test" / "0.png").write_bytes(png())
    found = problems(pets)
    assert "test has files that lie in no class folder: 0.png" in found
    assert f"{folder / 'val'} is not used; `test: val` would use it instead" in found
    assert fingerprint(replace(pets, test="val")) == before
    assert "has no folder holdout; its folders are test, train, val; give another name" in problems(
        replace(pets, test="holdout")
    )


def test_other_test_split_is_remarked(pets: OwnFiles, folder: Path) -> None:
    """A `val` beside a labelled `test` is not dropped without a word."""
    (folder / "val").mkdir()
    assert f"{folder / 'val'} is not used" in listed(pets).remarks[0]


def test_splits_that_are_one_folder_are_refused(pets: OwnFiles, folder: Path) -> None:
    """A linked test split would test on the training images."""
    shutil.rmtree(folder / "test")
    (folder / "test").symlink_to("train")
    assert problems(pets) == f"{folder / 'train'} and {folder / 'test'} are the same folder"


def test_names_that_differ_only_in_case_are_shown(pets: OwnFiles, folder: Path) -> None:
    """The message has the name that the other split spells differently."""
    (folder / "test" / "cat").rename(folder / "test" / "Cat")
    assert "has no class cat, which the other split has (it has 'Cat', which looks like" in (
        problems(pets)
    )


def test_split_without_images_is_told_first(pets: OwnFiles, folder: Path) -> None:
    """One sentence, not one for each class."""
    for path in (folder / "test").glob("*/*.png"):
        path.unlink()
    assert problems(pets) == "no image in its test split"


@pytest.mark.parametrize("pattern", ["drafts/", "./train/cat/drafts", "drafts/*", "Drafts"])
def test_pattern_that_leaves_nothing_out_is_remarked(pattern: str, folder: Path) -> None:
    """The images would be trained on, although the user means to leave them out."""
    (folder / "train" / "cat" / "drafts").mkdir()
    (folder / "train" / "cat" / "drafts" / "0.png").write_bytes(png(7))
    (folder / "notes").mkdir()
    files = OwnFiles(layout="folder", place=str(folder), ignore=("notes", pattern))
    listing = listed(files)
    assert listing.class_counts("train") == (3, 2)
    (remark,) = listing.remarks
    assert f"no file or folder in {folder} matches '{pattern}' under `ignore`" in remark
    assert ("such as `train/drafts`" in remark) == ("/" in pattern)
    fitting = OwnFiles(layout="folder", place=str(folder), ignore=("train/cat/drafts", "notes"))
    assert listed(fitting).class_counts("train") == (2, 2)
    assert not listed(fitting).remarks

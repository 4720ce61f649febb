import os
import socket
from pathlib import Path

import pytest

from eval.file_tree import HIDDEN, IGNORED, printable, walk


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return root


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    """A linked file or folder counts as if it lay there, at any depth."""
    far = make(tmp_path / "far", "deep/a.png", "b.png")
    base = make(tmp_path / "base", "c.png")
    (base / "linked").symlink_to(far)
    (base / "d.png").symlink_to(far / "b.png")
    tree = walk(base)
    names = [tree.name(path) for path in tree.files]
    assert names == ["c.png", "d.png", "linked/b.png", "linked/deep/a.png"]
    assert [tree.name(path) for path in tree.folders] == ["linked", "linked/deep"]
    assert not tree.faults


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_link_to_a_folder_that_contains_it_is_a_fault(tmp_path: Path, target: str) -> None:
    """The loop is noticed before anything is listed twice."""
    base = make(tmp_path / "base", "sub/a.png")
    (base / "sub" / "again").symlink_to(target)
    tree = walk(base)
    assert [tree.name(path) for path in tree.files] == ["sub/a.png"]
    (fault,) = tree.faults
    assert fault.path == base / "sub" / "again"
    assert "a folder that contains it" in str(fault)


def test_two_links_to_one_folder_are_no_loop(tmp_path: Path) -> None:
    """A folder may be part of two classes."""
    far = make(tmp_path / "far", "a.png")
    base = make(tmp_path / "base", "c.png")
    for name in ("x", "y"):
        (base / name).symlink_to(far)
    assert len(walk(base).files) == 3
    assert not walk(base).faults


def test_entries_that_are_no_files_are_faults(tmp_path: Path) -> None:
    """Broken links, pipes and sockets are told with the reason."""
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(tmp_path / "s.png"))
    assert [str(fault).removeprefix(f"{tmp_path}/") for fault in walk(tmp_path).faults] == [
        "gone.png is a link to nowhere.png, which cannot be opened",
        "pipe.png is no file: it is a pipe, a socket or a device",
        "s.png is no file: it is a pipe, a socket or a device",
        "self.png is a link to self.png, which cannot be opened",
    ]


def test_folder_that_cannot_be_listed_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without permission is told, and the others are still listed."""
    make(tmp_path, "a/1.png", "closed/2.png")
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    tree = walk(tmp_path)
    assert [tree.name(path) for path in tree.files] == ["a/1.png"]
    assert str(tree.faults[0]) == f"{tmp_path / 'closed'} cannot be listed: Permission denied"


def test_hidden_and_ignored_entries_are_skipped_and_named(tmp_path: Path) -> None:
    """Patterns with a slash are compared with the path, others with the name at any depth."""
    make(
        tmp_path,
        *("a/1.png", "a/.2.png", "a/.ipynb_checkpoints/1.png", "@eaDir/1.png", "a/Thumbs.db"),
        *("a/x.svg", "b/drafts/1.png", "c/drafts/1.png"),
    )
    tree = walk(tmp_path, ignore=["*.svg", "b/drafts"])
    assert [tree.name(path) for path in tree.files] == ["a/1.png", "c/drafts/1.png"]
    assert tree.skipped == {
        HIDDEN: ["@eaDir/", "a/.2.png", "a/.ipynb_checkpoints/", "a/Thumbs.db"],
        IGNORED: ["a/x.svg", "b/drafts/"],
    }


def test_names_are_printable_on_one_line() -> None:
    """Line breaks, escapes and bytes that are no text are spelled out."""
    assert printable(os.fsdecode(b"caf\xc3\xa9 \xff\n\x1b[31m.png")) == (
        "caf\u00e9 \\udcff\\n\\x1b[31m.png"
    )

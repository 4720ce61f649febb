"""Walks a directory of a user's files: follows links, and drops nothing without a word."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TOOL_NAMES = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__macosx",
        "__pycache__",
    )
)
"""Files and folders that file managers, storage servers and archives create, in lower case."""
HIDDEN = "hidden files and files of file managers"
"""Words for files and folders whose name begins with a dot or is one of `TOOL_NAMES`."""
IGNORED = "files that `ignore` names"
"""Words for files and folders that a pattern of the user leaves out."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A directory entry that is neither a file nor a folder that can be listed."""

    path: Path
    reason: str
    """A verb phrase: ``is a link to nothing``."""

    def __str__(self) -> str:
        """Returns the words that a user reads."""
        return f"{printable(self.path)} {self.reason}"


@dataclass(kw_only=True)
class FileTree:
    """The content of a directory at any depth; all paths are in ascending order."""

    root: Path
    """The directory below which entries are named: the walked one, or one above it."""
    files: list[Path] = field(default_factory=list)
    """Files, through links too."""
    folders: list[Path] = field(default_factory=list)
    """Folders that were walked, without the first one."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """Names below the root of entries that are left out, by reason: `HIDDEN` or `IGNORED`. A
    folder counts as one entry and its name ends with a slash."""
    faults: list[Fault] = field(default_factory=list)
    """Entries that may be wanted and cannot be used."""
    used: set[str] = field(default_factory=set)
    """The patterns of the user that an entry matches."""

    def name(self, path: Path) -> str:
        """Returns a path below the root, with slashes."""
        return path.relative_to(self.root).as_posix()


def walk(directory: Path, *, root: Path | None = None, ignore: Sequence[str] = ()) -> FileTree:
    """Lists a directory with everything below it.

    Links to files and folders are followed. A link to a folder that contains the link is a fault,
    as are links to nothing, pipes, sockets and devices, and folders that cannot be listed.

    Args:
        directory: An existing directory.
        root: The directory or one above it, from which entries have their names; None for the
            directory itself.
        ignore: Patterns as in a shell. A pattern without a slash is compared with the name of each
            file and folder, a pattern with a slash with its whole path below the root.
    """
    tree = FileTree(root=root or directory)
    _walk(directory, tree=tree, ignore=ignore, above=_folders_above(directory))
    for found in (tree.files, tree.folders):
        found.sort()
    tree.faults.sort(key=lambda fault: fault.path)
    for names in tree.skipped.values():
        names.sort()
    return tree


def reason_to_skip(name: str, *, ignore: Sequence[str]) -> str | None:
    """Returns why an entry is left out, given its name below the root; None if it is not."""
    if matching_patterns(name, ignore=ignore):
        return IGNORED
    last = name.rpartition("/")[2]
    return HIDDEN if last.startswith(".") or last.lower() in TOOL_NAMES else None


def matching_patterns(name: str, *, ignore: Sequence[str]) -> set[str]:
    """Returns the patterns that an entry matches, given its name below the root."""
    last = name.rpartition("/")[2]
    return {each for each in ignore if fnmatchcase(name if "/" in each else last, each)}


def printable(text: object) -> str:
    """Returns text that every terminal can show on one line, such as a file's name."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def _walk(
    folder: Path, *, tree: FileTree, ignore: Sequence[str], above: frozenset[tuple[int, int]]
) -> None:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        tree.faults.append(Fault(path=folder, reason=f"cannot be listed: {error.strerror}"))
        return
    for entry in entries:
        path = folder / entry.name
        is_folder = _is(entry.is_dir)
        reason = reason_to_skip(tree.name(path), ignore=ignore)
        if reason is not None:
            tree.used |= matching_patterns(tree.name(path), ignore=ignore)
            tree.skipped.setdefault(reason, []).append(tree.name(path) + "/" * is_folder)
        elif is_folder:
            _walk_folder(path, tree=tree, ignore=ignore, above=above)
        elif _is(entry.is_file):
            tree.files.append(path)
        else:
            tree.faults.append(Fault(path=path, reason=_why_no_file(path)))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself, or to a place that may not be looked at
        return False


def _walk_folder(
    path: Path, *, tree: FileTree, ignore: Sequence[str], above: frozenset[tuple[int, int]]
) -> None:
    try:
        identity = _identity(path)
    except OSError as error:
        tree.faults.append(Fault(path=path, reason=f"cannot be listed: {error.strerror}"))
        return
    if identity in above:
        tree.faults.append(
            Fault(path=path, reason=f"is a link to {path.resolve()}, a folder that contains it")
        )
        return
    tree.folders.append(path)
    _walk(path, tree=tree, ignore=ignore, above=above | {identity})


def _folders_above(directory: Path) -> frozenset[tuple[int, int]]:
    whole = directory.resolve()
    return frozenset(_identity(each) for each in (whole, *whole.parents))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _why_no_file(path: Path) -> str:
    try:
        path.stat()
    except OSError as error:
        if path.is_symlink():
            return f"is a link to {printable(path.readlink())}, which cannot be opened"
        return f"cannot be opened: {error.strerror}"
    return "is no file: it is a pipe, a socket or a device"

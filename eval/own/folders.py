"""Lists own tasks stored as one folder per class, the layout of torchvision's `ImageFolder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.own.files import TEST_NAMES, FileListing, OwnTaskError, leave_out, name_some

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""File name suffixes of images, in upper or lower case."""
IGNORED = ("thumbs.db", "desktop.ini")
"""Files that file managers create. Files whose name begins with a dot are ignored too."""
HIDDEN = "hidden files or files of file managers"
"""Reason for which such files are left out."""


@dataclass(frozen=True, kw_only=True)
class _ClassFolders:
    """The files of one split."""

    images: dict[str, tuple[Path, ...]]
    """Images by class; classes and images are in ascending order of their names."""
    strays: tuple[Path, ...]
    """Files that are no images, or lie in no class folder."""
    hidden: tuple[Path, ...]
    """Hidden files and files that file managers create."""


def list_folders(name: str, *, directory: Path) -> FileListing:
    """Lists `train/<class>/*` and `test/<class>/*` without opening a file.

    Raises:
        OwnTaskError: A split or class is missing, or a file is no image.
        OSError: A folder cannot be listed.
    """
    bases = _split_folders(name, directory=directory)
    listed = {split: _list_classes(base) for split, base in bases.items()}
    problems = [
        f"{bases[split]} has files that are no images, or in no class: {name_some(found.strays)}"
        for split, found in listed.items()
        if found.strays
    ]
    train, test = (set(listed[split].images) for split in ("train", "test"))
    problems += [
        f"{bases[split]} has no class {name_some(sorted(lacking))}, which the other split has"
        for split, lacking in (("test", train - test), ("train", test - train))
        if lacking
    ]
    if problems:
        raise OwnTaskError(name, problems=problems)
    classes = tuple(sorted(train))
    paths, labels = {}, {}
    for split, found in listed.items():
        in_order = [(n, path) for n, each in enumerate(classes) for path in found.images[each]]
        labels[split] = [number for number, _ in in_order]
        paths[split] = [(path.relative_to(bases[split]).as_posix(), path) for _, path in in_order]
    left_out = {
        split: leave_out({HIDDEN: [path.relative_to(directory).as_posix() for path in each.hidden]})
        for split, each in listed.items()
    }
    return FileListing(classes=classes, labels=labels, paths=paths, left_out=left_out)


def _split_folders(name: str, *, directory: Path) -> dict[str, Path]:
    if not directory.is_dir():
        raise OwnTaskError(name, problems=[f"{directory} is no directory on this machine"])
    allowed = {"train": ("train",), "test": TEST_NAMES}
    found = {
        split: next((directory / each for each in names if (directory / each).is_dir()), None)
        for split, names in allowed.items()
    }
    problems = [
        f"{directory} has no folder {' or '.join(allowed[split])}"
        for split, path in found.items()
        if path is None
    ]
    if problems:
        raise OwnTaskError(name, problems=problems)
    return {split: path for split, path in found.items() if path is not None}


def _list_classes(split: Path) -> _ClassFolders:
    """Lists the files below each folder of a split, at any depth."""
    images: dict[str, tuple[Path, ...]] = {}
    strays: list[Path] = []
    hidden: list[Path] = []
    for entry in sorted(split.iterdir()):
        if _is_ignored(entry):
            hidden.append(entry)
            continue
        if not entry.is_dir():
            strays.append(entry)
            continue
        below = [path for path in sorted(entry.rglob("*")) if path.is_file()]
        seen = [path for path in below if not _is_ignored(path)]
        images[entry.name] = tuple(path for path in seen if _is_image(path))
        hidden += [path for path in below if _is_ignored(path)]
        strays += [path for path in seen if not _is_image(path)]
    return _ClassFolders(images=images, strays=tuple(strays), hidden=tuple(hidden))


def _is_ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in IGNORED


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES

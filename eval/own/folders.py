"""Images in one folder a class, the layout of torchvision's `ImageFolder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Ends of file names that are images, in either case."""
IGNORED = ("thumbs.db", "desktop.ini")
"""What file managers leave behind; so are files whose name begins with a dot."""


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Lists one split: which images lie in which class's folder."""

    files: dict[str, tuple[Path, ...]]
    """Images by class, both in ascending order of their names."""
    strays: tuple[Path, ...]
    """Files beside the images, or beside the classes, that are none."""


def list_class_folders(split: Path) -> ClassFolders:
    """Lists the images below each folder of a split, however deep; opens none.

    Raises:
        OSError: The folder cannot be listed.
    """
    files: dict[str, tuple[Path, ...]] = {}
    strays: list[Path] = []
    for entry in sorted(split.iterdir()):
        if _is_ignored(entry):
            continue
        if not entry.is_dir():
            strays.append(entry)
            continue
        below = [path for path in sorted(entry.rglob("*")) if path.is_file()]
        seen = [path for path in below if not _is_ignored(path)]
        files[entry.name] = tuple(path for path in seen if _is_image(path))
        strays += [path for path in seen if not _is_image(path)]
    return ClassFolders(files=files, strays=tuple(strays))


def _is_ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in IGNORED


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES

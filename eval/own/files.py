"""The types that describe the files of a study's own task.

Errors::

    ValueError
    └── OwnTaskError    the files do not make a task; the message lists every problem
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

Layout = Literal["folder", "tables", "hub"]

TEST_NAMES = ("test", "val", "validation", "valid")
"""Accepted names of a test split; the first one found is used."""
MAX_NAMED = 5
"""Most files or classes that a message names."""


class OwnTaskError(ValueError):
    """The files of a study's own task do not make a task."""

    def __init__(self, name: str, *, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"task {name!r}: {'; '.join(self.problems)}")


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """The place and layout of a task's files.

    All fields but `place` enter the task's fingerprint by name and value, so renaming a field
    changes the ids of every own task.
    """

    layout: Layout
    """``folder``: one folder per class. ``tables``: Parquet or Arrow files. ``hub``: the tables of
    a data set on Hugging Face's hub."""
    place: str
    """An absolute directory, or owner/name on the hub."""
    revision: str | None = None
    """The hub's commit; None for the other layouts."""
    image: str = "image"
    """Column of the images in tables."""
    label: str = "label"
    """Column of the labels in tables."""
    classes: tuple[str, ...] = ()
    """Names of integer labels, in their order; empty where the tables carry the names."""
    channels: int = 3
    """1 makes every image grey, 3 makes every image RGB."""


@dataclass(frozen=True, kw_only=True)
class FileListing:
    """The classes, labels and files found for a task, before they are checked."""

    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    labels: Mapping[str, Sequence[int]]
    """Positions in `classes`, one per image, by split."""
    paths: Mapping[str, Sequence[tuple[str, Path]]]
    """Files by split, each with its name below the split."""


def name_some(names: Iterable[object]) -> str:
    """Returns the first names of a list in words, and how many more it has."""
    listed = [str(each) for each in names]
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more

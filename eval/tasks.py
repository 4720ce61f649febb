"""Knows which tasks exist and what each of them is, without touching an image.

The driver checks studies and derives ids from here, so nothing heavy may be imported: the whole
module costs one small JSON file.

Errors::

    ValueError
    └── UnknownTaskError    a study names a task that does not exist
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.embedded.index import read_index

if TYPE_CHECKING:
    from eval.embedded.index import TaskEntry

COMPOSER_VERSION = 1
"""Enters every fingerprint; bumped when the same sources compose into other pixels or labels."""

SUITES: dict[str, tuple[str, ...]] = {
    "embedded8": (
        "mnist_5k",
        "fashion_mnist_5k",
        "font_letters",
        "traffic_signs",
        "bluemarble_regions",
        "skimage_textures",
        "emoji_objects",
        "mnist_m",
    ),
}
"""Named lists of tasks that a study may ask for in one word."""


class UnknownTaskError(ValueError):
    """Says that no task has the name asked for, and which names are close to it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Describes a data set with its label space and splits."""

    name: str
    """Name in studies, plans and tables."""
    classes: tuple[str, ...]
    """Class names; a label is a position in this tuple."""
    num_train: int
    """Images in the training split."""
    num_test: int
    """Images in the test split."""
    channels: int
    """1 for greyscale, 3 for colour."""
    stands_in_for: str
    """The data set whose place this task takes; it is not that data set unless it says so."""
    material: str
    """``real``, ``rendered`` or ``composed``."""
    licence: str
    """Licence of the images."""
    fingerprint: str
    """Hex sha256 over everything that decides the images and labels."""

    @property
    def num_classes(self) -> int:
        """Counts the classes."""
        return len(self.classes)


def task_names() -> tuple[str, ...]:
    """Lists every task, in the order of the catalogue."""
    return tuple(read_index()["tasks"])


def find_task(name: str) -> Task:
    """Looks a task up by its name.

    Raises:
        UnknownTaskError: If there is none; the message names the close matches.
    """
    entry = read_index()["tasks"].get(name)
    if entry is None:
        raise UnknownTaskError(_unknown_task_message(name))
    return Task(
        name=name,
        classes=tuple(entry["classes"]),
        num_train=entry["num_train"],
        num_test=entry["num_test"],
        channels=entry["channels"],
        stands_in_for=entry["stands_in_for"],
        material=entry["material"],
        licence=entry["licence"],
        fingerprint=_fingerprint(name, entry=entry),
    )


def _fingerprint(name: str, *, entry: TaskEntry) -> str:
    digests = {source: read_index()["files"][source] for source in entry["sources"]}
    counts = [entry["num_train"], entry["num_test"], entry["channels"]]
    decisive = [COMPOSER_VERSION, name, entry["classes"], counts, digests]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _unknown_task_message(name: str) -> str:
    close = difflib.get_close_matches(name, task_names(), cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"unknown task {name!r}; {hint}The tasks are {', '.join(task_names())}."

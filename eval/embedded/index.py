"""Reads the index of the embedded tasks and of the source files that they are composed from.

The index is one small JSON file, ``sources/index.json``. Listing tasks therefore needs neither
numpy nor any image. ``eval.embedded.rebuild`` renews the digests in it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from eval.tasks import Task, fingerprint_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SOURCES_DIR = Path(__file__).parent / "sources"
COMPOSER_VERSION = 1
"""Part of every embedded task's fingerprint. Raise it when the same sources compose into other
pixels or labels."""


class TaskEntry(TypedDict):
    """One task of the index, edited by hand."""

    classes: list[str]
    """Class names; a label is a position in this list."""
    num_train: int
    """Images in the training split, a multiple of the number of classes."""
    num_test: int
    """Images in the test split, a multiple of the number of classes."""
    channels: int
    """1 for greyscale, 3 for colour."""
    stands_in_for: str
    """The data set whose place the task takes in a study, or ``none``; never its name."""
    material: str
    """``real`` photographs or scans, ``rendered`` vector art, ``composed`` of both, or
    ``simulated``."""
    licence: str
    """Licence of the images, as the sources state it."""
    sources: list[str]
    """Keys of `Index.files` that the images are composed from."""


class Index(TypedDict):
    """The whole index."""

    files: dict[str, str]
    """sha256 of each source; a key is a path under ``sources/``, or ``skimage:<file>``."""
    tasks: dict[str, TaskEntry]
    """The tasks by name, in the order of the suite ``embedded20``."""


@cache
def read_index() -> Index:
    """Reads the index, once per process."""
    return cast("Index", json.loads((SOURCES_DIR / "index.json").read_bytes()))


def embedded_task(name: str) -> Task:
    """Returns the embedded task with a name.

    Its fingerprint covers the digests of its sources and `COMPOSER_VERSION`, which stands for the
    code that composes the images. No image is read.

    Raises:
        KeyError: No embedded task has this name.
    """
    entry = read_index()["tasks"][name]
    digests = {source: read_index()["files"][source] for source in entry["sources"]}
    counts = [entry["num_train"], entry["num_test"], entry["channels"]]
    return Task(
        name=name,
        classes=tuple(entry["classes"]),
        num_train=entry["num_train"],
        num_test=entry["num_test"],
        channels=entry["channels"],
        stands_in_for=entry["stands_in_for"],
        material=entry["material"],
        licence=entry["licence"],
        fingerprint=fingerprint_of([COMPOSER_VERSION, name, entry["classes"], counts, digests]),
    )


def embedded_labels(task: Task) -> dict[str, NDArray[np.int64]]:
    """Returns the labels of an embedded task's splits, without composing an image.

    Every composer makes the images class by class, and the same number for each class.
    """
    import numpy as np  # noqa: PLC0415 listing tasks does not need it

    sizes = {"train": task.num_train, "test": task.num_test}
    return {
        split: np.repeat(np.arange(task.num_classes), num // task.num_classes)
        for split, num in sizes.items()
    }

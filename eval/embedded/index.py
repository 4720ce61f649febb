"""Reads the catalogue of the embedded tasks and of the files that they are made of.

The catalogue is one small JSON file, ``sources/index.json``, so that listing tasks needs neither
numpy nor a look at any image. ``eval.embedded.rebuild`` renews its digests.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

SOURCES_DIR = Path(__file__).parent / "sources"


class TaskEntry(TypedDict):
    """Describes one task: the hand-kept half of the catalogue."""

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
    """Keys of `Index.files` that the images are made of."""


class Index(TypedDict):
    """Holds the whole catalogue."""

    files: dict[str, str]
    """sha256 of each source; a key is a path under ``sources/``, or ``skimage:<file>``."""
    tasks: dict[str, TaskEntry]
    """The tasks by name, in the order of the suite."""


@cache
def read_index() -> Index:
    """Reads the catalogue, once per process."""
    return cast("Index", json.loads((SOURCES_DIR / "index.json").read_bytes()))

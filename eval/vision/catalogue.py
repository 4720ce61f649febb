"""Reads the catalogue of the published data sets: one JSON file, without numpy or any image.

README.md of this package says how each number was checked.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, TypedDict, cast

from eval.tasks import Task, fingerprint_of

LOADER_VERSION = 1
"""Part of every published task's fingerprint. Raise it when the same files are read as other images
or labels."""
FOR_PEOPLE = ("files", "by_hand")
"""Fields of a source that only people read; the fingerprint leaves them out."""


class VisionSource(TypedDict, total=False):
    """The files of a data set: torchvision's layout, or Parquet files from Hugging Face's hub."""

    torchvision: str
    """The class of `torchvision.datasets` whose layout the files have."""
    files: str
    """Pattern of the files' paths under the data root, for people."""
    digests: dict[str, str]
    """Digest of each archive or file, which torchvision checks on download or on opening."""
    by_hand: str
    """Instructions for a person who has to fetch the files; absent if a program can."""
    hub: str
    """Owner and name on the hub."""
    revision: str
    """The commit on the hub."""
    image: str
    """Column of the images."""
    label: str
    """Column of the labels."""
    train: list[Any]
    """The parts of the training split in order: class arguments, lists, or the hub's splits."""
    test: list[Any]
    """The parts of the test split."""


class VisionEntry(TypedDict):
    """One published data set."""

    title: str
    """The data set's own name."""
    classes: list[str]
    """Class names in the order of the labels, in FusionBench's spelling."""
    templates: list[str]
    """Prompts of zero-shot heads, `{}` for the class."""
    channels: int
    """1 for greyscale, 3 for colour."""
    num_train: int
    """Images in the training split."""
    num_test: int
    """Images in the test split."""
    material: str
    """``real`` photographs or scans, or ``rendered``."""
    licence: str
    """Licence of the images; ``unknown`` if none was found."""
    source: VisionSource
    """The files of the data set."""


@cache
def read_catalogue() -> dict[str, VisionEntry]:
    """Reads the catalogue, once per process, in FusionBench's order."""
    path = Path(__file__).with_name("catalogue.json")
    return cast("dict[str, VisionEntry]", json.loads(path.read_bytes()))


def published_task(name: str) -> Task:
    """Returns the published task with a name.

    Its fingerprint is computed from the catalogue alone, so ids are known before any download.
    Opening the files checks them against the same catalogue (`eval.vision.published`).

    Raises:
        KeyError: The catalogue has no task of this name.
    """
    entry = read_catalogue()[name]
    source = {key: value for key, value in entry["source"].items() if key not in FOR_PEOPLE}
    counts = [entry["num_train"], entry["num_test"], entry["channels"]]
    return Task(
        name=name,
        classes=tuple(entry["classes"]),
        num_train=entry["num_train"],
        num_test=entry["num_test"],
        channels=entry["channels"],
        stands_in_for=entry["title"],
        material=entry["material"],
        licence=entry["licence"],
        fingerprint=fingerprint_of([LOADER_VERSION, name, source, entry["classes"], counts]),
        templates=tuple(entry["templates"]),
    )

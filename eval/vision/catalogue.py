"""Reads the catalogue of the published data sets: one JSON file, neither numpy nor any image.

What each number was checked against stands in this package's README.md.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, TypedDict, cast

from eval.tasks import Task, fingerprint_of

LOADER_VERSION = 1
"""Enters every fingerprint; bumped when the same files are read as other images or labels."""
FOR_PEOPLE = ("files", "by_hand")
"""What a source says to a person: it decides nothing."""


class VisionSource(TypedDict, total=False):
    """Says what files a data set comes in: torchvision's, or Parquet from Hugging Face's hub."""

    torchvision: str
    """The class of `torchvision.datasets` whose layout the files have."""
    files: str
    """Where they lie under the data root, as a pattern for people."""
    digests: dict[str, str]
    """Archive (or file) and what torchvision checks it against when it downloads or opens it."""
    by_hand: str
    """How to get the files where no program can."""
    hub: str
    """Owner and name on the hub."""
    revision: str
    """The commit of it."""
    image: str
    """Column of the images."""
    label: str
    """Column of the labels."""
    train: list[Any]
    """Arguments of the class, lists or splits that make up the training split, in this order."""
    test: list[Any]
    """The same for the test split."""


class VisionEntry(TypedDict):
    """Describes one published data set."""

    title: str
    """Its own name."""
    classes: list[str]
    """Class names in the order of the labels, as FusionBench writes them."""
    templates: list[str]
    """Sentences of zero-shot heads, `{}` for the class."""
    channels: int
    """1 for greyscale, 3 for colour."""
    num_train: int
    """Images in the training split."""
    num_test: int
    """Images in the test split."""
    material: str
    """``real`` photographs or scans, or ``rendered``."""
    licence: str
    """Licence of the images, ``unknown`` where none was found."""
    source: VisionSource
    """What files it comes in."""


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

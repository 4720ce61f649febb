"""Knows which tasks exist and what each of them is, without touching an image.

The driver checks studies and derives ids from here, so nothing heavy may be imported: the whole
module costs two small JSON files, of the embedded tasks and of the published data sets.

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
from eval.vision.catalogue import decisive, read_catalogue

if TYPE_CHECKING:
    from eval.embedded.index import TaskEntry
    from eval.vision.catalogue import VisionEntry

COMPOSER_VERSION = 1
"""Enters every fingerprint; bumped when the same sources compose into other pixels or labels."""

EMBEDDED8 = (
    "mnist_5k",
    "fashion_mnist_5k",
    "font_letters",
    "traffic_signs",
    "bluemarble_regions",
    "skimage_textures",
    "emoji_objects",
    "mnist_m",
)
"""The eight embedded tasks of the demo."""
VISION8 = ("sun397", "stanford_cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
"""The eight tasks of most merging papers, in FusionBench's order."""
VISION14 = (
    *VISION8,
    "cifar100",
    "stl10",
    "oxford_flowers102",
    "oxford_iiit_pet",
    "pcam",
    "fer2013",
)

SUITES: dict[str, tuple[str, ...]] = {
    "embedded8": EMBEDDED8,
    "embedded20": (
        *EMBEDDED8,
        "digits8x8",
        "kana",
        "ihc_stain",
        "textile",
        "review_words",
        "emoji_animals",
        "emoji_plants",
        "emoji_food",
        "emoji_vehicles",
        "emoji_places",
        "emoji_faces",
        "emoji_flags",
    ),
    "vision8": VISION8,
    "vision14": VISION14,
    "vision20": (
        *VISION14,
        "cifar10",
        "food101",
        "fashion_mnist",
        "emnist_letters",
        "kmnist",
        "rendered_sst2",
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
    """``real``, ``rendered``, ``composed``, ``simulated``; ``own`` for a task of a study's own."""
    licence: str
    """Licence of the images."""
    fingerprint: str
    """Hex sha256 over everything that decides the images and labels."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Sentences of zero-shot heads, ``{}`` for the class; no matter of the images."""

    @property
    def num_classes(self) -> int:
        """Counts the classes."""
        return len(self.classes)


def task_names() -> tuple[str, ...]:
    """Lists every task, in the order of the catalogues."""
    return (*read_index()["tasks"], *read_catalogue())


def is_embedded(name: str) -> bool:
    """Tells whether a task's images come with this package."""
    return name in read_index()["tasks"]


def find_task(name: str) -> Task:
    """Looks a task up by its name.

    Raises:
        UnknownTaskError: If there is none; the message names the close matches.
    """
    if name in read_index()["tasks"]:
        return _embedded_task(name, entry=read_index()["tasks"][name])
    if name in read_catalogue():
        return _published_task(name, entry=read_catalogue()[name])
    raise UnknownTaskError(_unknown_task_message(name))


def digest_of(values: object) -> str:
    """Returns the fingerprint that plain values give: hex sha256 over their JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _embedded_task(name: str, *, entry: TaskEntry) -> Task:
    return Task(
        name=name,
        classes=tuple(entry["classes"]),
        num_train=entry["num_train"],
        num_test=entry["num_test"],
        channels=entry["channels"],
        stands_in_for=entry["stands_in_for"],
        material=entry["material"],
        licence=entry["licence"],
        fingerprint=_embedded_fingerprint(name, entry=entry),
    )


def _published_task(name: str, *, entry: VisionEntry) -> Task:
    return Task(
        name=name,
        classes=tuple(entry["classes"]),
        num_train=entry["num_train"],
        num_test=entry["num_test"],
        channels=entry["channels"],
        stands_in_for=entry["title"],
        material=entry["material"],
        licence=entry["licence"],
        fingerprint=digest_of(decisive(name, entry=entry)),
        templates=tuple(entry["templates"]),
    )


def _embedded_fingerprint(name: str, *, entry: TaskEntry) -> str:
    digests = {source: read_index()["files"][source] for source in entry["sources"]}
    counts = [entry["num_train"], entry["num_test"], entry["channels"]]
    return digest_of([COMPOSER_VERSION, name, entry["classes"], counts, digests])


def _unknown_task_message(name: str) -> str:
    close = difflib.get_close_matches(name, task_names(), cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"unknown task {name!r}; {hint}The tasks are {', '.join(task_names())}."

"""Finds tasks by name: all embedded and published tasks, and the suites that group them.

The driver checks studies and derives ids with this module, so it imports nothing heavy. It reads
two small JSON files: the index of the embedded tasks and the catalogue of the published data sets.

Errors::

    ValueError
    └── UnknownTaskError    a study names a task that does not exist
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from eval.embedded.index import embedded_task, read_index
from eval.vision.catalogue import published_task, read_catalogue

if TYPE_CHECKING:
    from eval.tasks import Task

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
"""The fourteen tasks of the larger suite of the merging papers."""

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
"""Lists of tasks that a study may name by one word."""


class UnknownTaskError(ValueError):
    """No task has the requested name; the message suggests similar names."""


def task_names() -> tuple[str, ...]:
    """Returns the names of all tasks: embedded first, then published."""
    return (*read_index()["tasks"], *read_catalogue())


def is_embedded(name: str) -> bool:
    """Returns whether a task's images come with this package."""
    return name in read_index()["tasks"]


def find_task(name: str) -> Task:
    """Returns the task with a name.

    Raises:
        UnknownTaskError: No task has this name; the message suggests similar names.
    """
    if name in read_index()["tasks"]:
        return embedded_task(name)
    if name in read_catalogue():
        return published_task(name)
    raise UnknownTaskError(_unknown_task_message(name))


def _unknown_task_message(name: str) -> str:
    spelled = name.casefold().replace("-", "_")  # as all tasks are
    close = difflib.get_close_matches(spelled, task_names(), cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"unknown task {name!r}; {hint}The tasks are {', '.join(task_names())}."

"""Takes the textile task from its sheet: cuttings of simulated cloth, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eval.embedded.randomness import random_stream, split_per_class
from eval.embedded.vendored import read_picture
from eval.images.split import Split

if TYPE_CHECKING:
    from eval.tasks import Task

SHEET = "textile/textile.jpg"
"""Cuttings in rows, equally many of each class, in the order of the classes."""

CUTTING_SIZE = 64
"""Edge of a cutting, in pixels."""


def compose_textile(task: Task) -> dict[str, Split]:
    """Deals the cuttings, each of a piece of cloth of its own, to the splits."""
    sheet = read_picture(SHEET, mode="L")
    height, width = sheet.shape
    rows = sheet.reshape(height // CUTTING_SIZE, CUTTING_SIZE, width // CUTTING_SIZE, CUTTING_SIZE)
    cuttings = rows.swapaxes(1, 2).reshape(-1, CUTTING_SIZE, CUTTING_SIZE, 1)
    num_train, num_test = (n // task.num_classes for n in (task.num_train, task.num_test))
    labels = np.repeat(np.arange(task.num_classes, dtype=np.int64), num_train + num_test)
    dealt = split_per_class(
        labels, num_train=num_train, num_test=num_test, rng=random_stream(task.name, "split")
    )
    return {
        split: Split(images=cuttings[chosen], labels=labels[chosen])
        for split, chosen in dealt.items()
    }

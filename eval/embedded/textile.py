"""Composes the textile task: crops of simulated cloth from one sheet, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eval.embedded.randomness import random_stream, split_per_class
from eval.embedded.vendored import read_picture
from eval.images.split import Split

if TYPE_CHECKING:
    from eval.tasks import Task

SHEET = "textile/textile.jpg"
"""Source with crops in rows, the same number of each class, in the order of the classes."""

CROP_SIZE = 64
"""Edge of a crop, in pixels."""


def compose_textile(task: Task) -> dict[str, Split]:
    """Assigns the crops to the splits; each crop shows another piece of cloth."""
    sheet = read_picture(SHEET, mode="L")
    height, width = sheet.shape
    rows = sheet.reshape(height // CROP_SIZE, CROP_SIZE, width // CROP_SIZE, CROP_SIZE)
    crops = rows.swapaxes(1, 2).reshape(-1, CROP_SIZE, CROP_SIZE, 1)
    num_train, num_test = (n // task.num_classes for n in (task.num_train, task.num_test))
    labels = np.repeat(np.arange(task.num_classes, dtype=np.int64), num_train + num_test)
    dealt = split_per_class(
        labels, num_train=num_train, num_test=num_test, rng=random_stream(task.name, "split")
    )
    return {
        split: Split(images=crops[chosen], labels=labels[chosen]) for split, chosen in dealt.items()
    }

"""Chooses which images of a task a study keeps, and in which order, before any is decoded."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.embedded.randomness import random_stream
from workers.specs.data import DataSpec

VALIDATION_FRACTION = 0.2
"""Share of the training images that `evaluate_on: validation` holds out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The images that one stored split is made of."""

    source: str
    """`train` or `test`: the split of the task that they are read from."""
    positions: npt.NDArray[np.int64]
    """Their positions in that source, (num,), in the order in which they are stored."""


def select_images(num_images: Mapping[str, int], *, spec: DataSpec) -> dict[str, Selection]:
    """Returns what `train` and `test` are made of: a fixed shuffle of each source, cut short.

    The shuffle depends on the names of the task and of its split alone, so that smaller limits are
    nested.

    Args:
        num_images: The sizes of the task's own `train` and `test`.
        spec: The limits, and whether the test images are the task's own.
    """
    train, test = (
        Selection(source=name, positions=_shuffled(spec.task, name, num_images[name]))
        for name in ("train", "test")
    )
    if spec.evaluate_on == "validation":
        kept = round(num_images["train"] * (1 - VALIDATION_FRACTION))
        train, test = _cut(train, 0, kept), _cut(train, kept, None)
    return {"train": _cut(train, 0, spec.max_train), "test": _cut(test, 0, spec.max_test)}


def _shuffled(task: str, split: str, num_images: int) -> npt.NDArray[np.int64]:
    return random_stream(task, split, "order").permutation(num_images).astype(np.int64)


def _cut(selection: Selection, start: int, stop: int | None) -> Selection:
    return Selection(source=selection.source, positions=selection.positions[start:stop])

"""Selection of the images of a task that a study keeps, before any image is decoded."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.embedded.randomness import random_stream
from workers.specs.data import DataSpec

VALIDATION_FRACTION = 0.2
"""Fraction of the training images that `evaluate_on: validation` or `max_validation` holds out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The images of one stored split."""

    source: str
    """Split of the task that the images are read from: `train` or `test`."""
    positions: npt.NDArray[np.int64]
    """Positions of the images in the source, (num,), in the order in which they are stored."""


def select_images(num_images: Mapping[str, int], *, spec: DataSpec) -> dict[str, Selection]:
    """Returns the images of `train` and `test`: the first images of a fixed shuffle of each source.

    The shuffle depends only on the names of the task and the split, so that a smaller limit keeps a
    subset of the images. With `max_validation` there is a third split, `validation`. No image of a
    source is in two of the splits.

    Args:
        num_images: Sizes of the task's own `train` and `test` splits.
        spec: The specification, with the limits and the choice of evaluation images.
    """
    train, test = (
        Selection(source=name, positions=_shuffled(spec.task, name, num_images[name]))
        for name in ("train", "test")
    )
    if spec.evaluate_on == "validation":
        kept = num_images["train"] - num_held_out(num_images["train"])
        train, test = _cut(train, 0, kept), _cut(train, kept, None)
    validation = {}
    if spec.max_validation is not None:
        kept = len(train.positions) - num_held_out(len(train.positions))
        validation = {"validation": _cut(train, kept, kept + spec.max_validation)}
        train = _cut(train, 0, kept)
    return {
        "train": _cut(train, 0, spec.max_train),
        "test": _cut(test, 0, spec.max_test),
        **validation,
    }


def num_held_out(num_train: int) -> int:
    """Returns the number of training images that are held out to be validated on."""
    return num_train - round(num_train * (1 - VALIDATION_FRACTION))


def _shuffled(task: str, split: str, num_images: int) -> npt.NDArray[np.int64]:
    return random_stream(task, split, "order").permutation(num_images).astype(np.int64)


def _cut(selection: Selection, start: int, stop: int | None) -> Selection:
    return Selection(source=selection.source, positions=selection.positions[start:stop])

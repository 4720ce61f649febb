"""Joins the splits of several tasks into one split, with one label space for all classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from eval.images.split import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COLOURS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class JointSplit:
    """The splits of several tasks of one image size, one after another, without a copy."""

    splits: tuple[Split, ...]
    """One split per task; grey and coloured tasks can be joined."""
    num_classes: tuple[int, ...]
    """Number of classes of each task, including classes that do not occur in its split."""

    def __len__(self) -> int:
        """Returns the number of images of all tasks."""
        return int(self._starts[-1])

    @property
    def num_joint_classes(self) -> int:
        """Number of classes of all tasks."""
        return sum(self.num_classes)

    @cached_property
    def relabelled(self) -> tuple[Split, ...]:
        """The splits with joint labels: each task's labels follow those of the previous task."""
        offsets = np.cumsum([0, *self.num_classes])
        return tuple(
            split.relabelled(split.labels + offset)
            for split, offset in zip(self.splits, offsets[:-1], strict=True)
        )

    def take(self, positions: NDArray[np.int64]) -> Split:
        """Returns a copy of the images at the given positions, in colour and with joint labels.

        Shapes:
            positions: (batch,), each in [0, len(self)).
            returns: a split with images of shape (batch, height, width, 3).
        """
        height, width, _ = self.splits[0].image(0).shape
        images = np.empty((len(positions), height, width, _COLOURS), dtype=np.uint8)
        labels = np.empty(len(positions), dtype=np.int64)
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        for owner, split in enumerate(self.relabelled):
            mine = owners == owner
            # The one channel of a grey image is broadcast to three.
            taken = split.take(positions[mine] - self._starts[owner])
            images[mine], labels[mine] = taken.images, taken.labels
        return Split(images=images, labels=labels)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Position of each task's first image, and the number of all images, (tasks + 1,)."""
        return np.cumsum([0, *map(len, self.splits)])

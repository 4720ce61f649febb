"""Several tasks' images as one split, under one label space that holds all their classes."""

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
    """Holds the splits of several tasks of one image size, one after another, without copying."""

    splits: tuple[Split, ...]
    """One a task; grey ones and coloured ones may stand beside each other."""
    num_classes: tuple[int, ...]
    """Classes of each task, not all of which need occur in its split."""

    def __len__(self) -> int:
        """Counts the images of all tasks."""
        return int(self._starts[-1])

    @property
    def num_joint_classes(self) -> int:
        """Counts the classes of all tasks."""
        return sum(self.num_classes)

    @cached_property
    def relabelled(self) -> tuple[Split, ...]:
        """The tasks' splits with labels in the joint space: a task's begin after the last one's."""
        offsets = np.cumsum([0, *self.num_classes])
        return tuple(
            split.relabelled(split.labels + offset)
            for split, offset in zip(self.splits, offsets[:-1], strict=True)
        )

    def take(self, positions: NDArray[np.int64]) -> Split:
        """Returns a copy of the images at some positions, in colour and with their joint labels.

        Shapes:
            positions: (batch,), each in [0, len(self)).
            returns: of images (batch, height, width, 3).
        """
        height, width, _ = self.splits[0].image(0).shape
        images = np.empty((len(positions), height, width, _COLOURS), dtype=np.uint8)
        labels = np.empty(len(positions), dtype=np.int64)
        owners = np.searchsorted(self._starts, positions, side="right") - 1
        for owner, split in enumerate(self.relabelled):
            mine = owners == owner
            # Grey images have one channel, which is written to all three.
            taken = split.take(positions[mine] - self._starts[owner])
            images[mine], labels[mine] = taken.images, taken.labels
        return Split(images=images, labels=labels)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The position of each task's first image, and that behind the last, (tasks + 1,)."""
        return np.cumsum([0, *map(len, self.splits)])

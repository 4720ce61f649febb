"""A split in memory: its images, in one or several arrays, and their labels."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray


class Split:
    """One split of a task, or some images of one; immutable.

    If a split was opened from several files, its images stay in the memory-mapped files, one array
    (*shard*) per file. Only `images` may copy more than the requested images.
    """

    def __init__(
        self,
        *,
        images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        labels: NDArray[np.int64],
    ) -> None:
        """Keeps the arrays without copying them.

        Args:
            images: One array, or several in order whose shapes differ only in the number of images.
            labels: Positions in the task's classes.

        Shapes:
            images: (num, height, width, channels).
            labels: (num,).
        """
        self._shards = (images,) if isinstance(images, np.ndarray) else tuple(images)
        self._stops = tuple(accumulate(map(len, self._shards)))
        assert self._stops[-1] == len(labels), f"{self._stops[-1]} images, {len(labels)} labels"
        self.labels = labels

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    @property
    def images(self) -> NDArray[np.uint8]:
        """All pixels in one array: a view of a single shard, else a copy. Use it on batches.

        Shapes:
            returns: (num, height, width, channels); read-only if opened from a file.
        """
        return self._shards[0] if len(self._shards) == 1 else np.concatenate(self._shards)

    def image(self, index: int) -> NDArray[np.uint8]:
        """Returns one image as a view.

        Shapes:
            returns: (height, width, channels).
        """
        shard = bisect_right(self._stops, index)
        image: NDArray[np.uint8] = self._shards[shard][index - self._start(shard)]
        return image

    def name(self, index: int) -> str:
        """Returns the position of an image."""
        return f"image {index}"

    def rows(self, start: int, stop: int) -> Split:
        """Returns the images from `start` to before `stop`, or to the end, without a copy."""
        pieces = []
        for shard in range(bisect_right(self._stops, start), len(self._shards)):
            first = self._start(shard)
            if first >= stop:
                break
            pieces.append(self._shards[shard][max(0, start - first) : stop - first])
        return Split(images=pieces or self._shards[0][:0], labels=self.labels[start:stop])

    def relabelled(self, labels: NDArray[np.int64]) -> Split:
        """Returns the same images with other labels, without a copy."""
        return Split(images=self._shards, labels=labels)

    def take(self, positions: NDArray[np.int64]) -> Split:
        """Returns a copy of the images at the given positions, in that order, as one array.

        Shapes:
            positions: (num,), each in [0, len(self)).
        """
        labels = self.labels[positions]
        if len(self._shards) == 1:
            return Split(images=self._shards[0][positions], labels=labels)
        images = np.empty((len(positions), *self._shards[0].shape[1:]), dtype=np.uint8)
        for row, position in enumerate(positions.tolist()):
            images[row] = self.image(position)
        return Split(images=images, labels=labels)

    def batches(self, size: int) -> Iterator[Split]:
        """Yields all images in order, `size` at a time and the rest at the end, without a copy."""
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)

    def _start(self, shard: int) -> int:
        return self._stops[shard - 1] if shard else 0

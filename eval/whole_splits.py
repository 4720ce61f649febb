"""Reads the splits of a task into memory: shuffled once, and resized to squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from eval.embedded.build import build_splits
from eval.embedded.draws import stream
from eval.images import Split
from eval.sources import open_sources
from eval.tasks import is_embedded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eval.image_source import ImageSource
    from eval.task_source import TaskSource


def read_splits(source: TaskSource, *, image_size: int) -> dict[str, Split]:
    """Reads both splits of a task, deterministic bit for bit.

    Args:
        source: The task, and where its files lie.
        image_size: Height and width of the images, in pixels.

    Returns:
        ``train`` and ``test``; images (num, image_size, image_size, channels), labels shuffled.

    Raises:
        ImageSourceError: Files are missing, damaged, or not those that were planned for.
    """
    name = source.task.name
    if source.files is None and is_embedded(name):
        return build_splits(name, image_size=image_size)
    return {
        split: _whole(found, image_size=image_size, rng=stream(name, split, "order"))
        for split, found in open_sources(source).items()
    }


def _whole(source: ImageSource, *, image_size: int, rng: np.random.Generator) -> Split:
    order = rng.permutation(len(source.labels))
    images = np.stack([_square(source.image(int(i)), size=image_size) for i in order])
    return Split(images=images, labels=source.labels[order])


def _square(image: NDArray[np.uint8], *, size: int) -> NDArray[np.uint8]:
    """Resizes the largest square about the middle, with Pillow's bicubic filter."""
    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    box = (left, top, left + side, top + side)
    resized = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(resized).reshape(size, size, channels)

"""Builds the splits of an embedded task: composed once at their own size, shuffled, then resized.

The same sources give the same bytes on every run. Pillow's and SciPy's versions are part of that
promise, and the project's requirements pin them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from eval.embedded.digits import compose_fashion, compose_mnist
from eval.embedded.draws import stream
from eval.embedded.glyphs import compose_letters
from eval.embedded.overlays import compose_overlays
from eval.embedded.regions import compose_regions
from eval.embedded.sprites import compose_emoji, compose_signs
from eval.embedded.textures import compose_textures
from eval.images import Split
from eval.tasks import Task, find_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from eval.embedded.vendored import Pixels

COMPOSERS: dict[str, Callable[[Task], dict[str, Split]]] = {
    "mnist_5k": compose_mnist,
    "fashion_mnist_5k": compose_fashion,
    "font_letters": compose_letters,
    "traffic_signs": compose_signs,
    "bluemarble_regions": compose_regions,
    "skimage_textures": compose_textures,
    "emoji_objects": compose_emoji,
    "mnist_m": compose_overlays,
}
"""What composes each task, at the size in which its material comes, class by class."""


def build_splits(task_name: str, *, image_size: int) -> dict[str, Split]:
    """Builds the training and the test split of a task, deterministic bit for bit.

    Args:
        task_name: A name that `eval.tasks.task_names` lists.
        image_size: Height and width of the images, in pixels.

    Returns:
        ``train`` and ``test``; images (num, image_size, image_size, channels), labels shuffled.

    Raises:
        UnknownTaskError: If there is no such task.
        ValueError: If the image size is not positive.
        SourceDigestError: If a source is not the file that the index knows.
    """
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}, it must be at least 1 pixel")
    task = find_task(task_name)
    composed = COMPOSERS[task.name](task)
    return {
        name: _finished(split, image_size=image_size, rng=stream(task_name, name, "order"))
        for name, split in composed.items()
    }


def _finished(split: Split, *, image_size: int, rng: np.random.Generator) -> Split:
    order = rng.permutation(len(split))
    images = np.stack([_resized(split.images[i], image_size=image_size) for i in order])
    return Split(images=images, labels=split.labels[order])


def _resized(image: Pixels, *, image_size: int) -> Pixels:
    """Resizes one image; Pillow's bicubic filter widens when it shrinks, so nothing aliases."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(image_size, image_size, image.shape[-1])

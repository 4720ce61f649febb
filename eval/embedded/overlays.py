"""Composes mnist_m: handwritten digits over backdrops, as MNIST-M lays them over photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eval.embedded.backdrops import draw_backdrop
from eval.embedded.digits import mnist_digits
from eval.embedded.randomness import random_stream
from eval.images.split import Split

if TYPE_CHECKING:
    from eval.embedded.vendored import Pixels
    from eval.tasks import Task

_SIZE = 32
_MARGIN = 2  # pixels around digits of 28 pixels
_INVERTED_FRAC = 0.5  # of the digits invert the backdrop; the others have one colour
_MIN_CONTRAST = 150  # between digit and mean backdrop, summed over three channels


def compose_overlays(task: Task) -> dict[str, Split]:
    """Lays each digit of the MNIST task over a backdrop of its own."""
    composed = {}
    for split, digits in mnist_digits().items():
        rng = random_stream(task.name, split)
        images = [_overlaid(digit, split=split, rng=rng) for digit in digits.images]
        composed[split] = Split(images=np.stack(images), labels=digits.labels)
    return composed


def _overlaid(digit: Pixels, *, split: str, rng: np.random.Generator) -> Pixels:
    backdrop = draw_backdrop(_SIZE, split=split, rng=rng).astype(np.float64)
    cover = np.pad(digit, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))) / 255
    if rng.random() < _INVERTED_FRAC:
        laid = np.abs(backdrop - 255 * cover)
    else:
        laid = backdrop * (1 - cover) + _ink(backdrop.mean(axis=(0, 1)), rng=rng) * cover
    return np.rint(laid).astype(np.uint8)


def _ink(
    behind: np.ndarray[tuple[int], np.dtype[np.float64]], *, rng: np.random.Generator
) -> Pixels:
    """Draws colours until one has enough contrast with the backdrop."""
    while True:
        ink = rng.integers(0, 256, 3).astype(np.uint8)
        if np.abs(ink - behind).sum() >= _MIN_CONTRAST:
            return ink

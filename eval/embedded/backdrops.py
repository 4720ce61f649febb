"""Draws backdrops: crops of a map of the Earth, gradients and noise.

The two splits crop different parts of the map, so no place is seen in both.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from eval.embedded.vendored import Pixels, read_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

EARTH = "earth/bmng.jpg"
"""The map: 5,400 x 2,700 pixels, 15 to a degree, from 180 degrees west and 90 degrees north."""

_ROWS = (450, 2100)  # 60 degrees north to 50 degrees south; the rest is ice and grey sea
_COLUMNS = {"train": (0, 3150), "test": (3150, 5400)}  # divided at 30 degrees east
_MIN_MEAN = 45.0  # grey levels: on deep sea, half of the map, dark sprites would be invisible
_NOISE_STD = 20.0
_MODULUS = 1 << 32


def draw_backdrop(size: int, *, split: str, rng: np.random.Generator) -> Pixels:
    """Draws one backdrop, (size, size, 3); on average every second is a crop of the map."""
    kind = rng.integers(4)
    if kind == 0:
        return _gradient(size, rng=rng)
    if kind == 1:
        return _noise(size, rng=rng)
    return _crop(size, columns=_COLUMNS[split], rng=rng)


def _crop(size: int, *, columns: tuple[int, int], rng: np.random.Generator) -> Pixels:
    while True:
        row = int(rng.integers(_ROWS[0], _ROWS[1] - size))
        column = int(rng.integers(columns[0], columns[1] - size))
        crop = read_picture(EARTH)[row : row + size, column : column + size]
        if _sum_of(row - _ROWS[0], column, size=size) >= _MIN_MEAN * crop.size:
            return crop


def _sum_of(row: int, column: int, *, size: int) -> int:
    """Returns the sum of the pixels of a square of the map, from running sums.

    Most drawn squares are sea and are rejected. Averaging the pixels of each square took three
    quarters of the time of composing a backdrop.
    """
    sums, bottom, right = _running_sums(), row + size, column + size
    corners = (sums[bottom, right], sums[row, column], sums[row, right], sums[bottom, column])
    whole, above_left, above, left = map(int, corners)
    return (whole + above_left - above - left) % _MODULUS


@cache
def _running_sums() -> NDArray[np.uint32]:
    """Returns the sum of all used pixels above and left of each pixel, modulo 2^32; 36 MB."""
    grey = read_picture(EARTH)[slice(*_ROWS)].sum(axis=2, dtype=np.uint32)
    return np.pad(grey.cumsum(axis=0, dtype=np.uint32).cumsum(axis=1, dtype=np.uint32), (1, 0))


def _gradient(size: int, *, rng: np.random.Generator) -> Pixels:
    start, end = rng.integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, size)[:, np.newaxis, np.newaxis]
    image = np.broadcast_to(start * (1 - ramp) + end * ramp, (size, size, 3)).astype(np.uint8)
    return image.transpose(1, 0, 2) if rng.random() < 0.5 else image  # noqa: PLR2004 a fair coin


def _noise(size: int, *, rng: np.random.Generator) -> Pixels:
    noisy = rng.integers(0, 256, 3) + rng.normal(0, _NOISE_STD, (size, size, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

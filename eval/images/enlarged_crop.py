"""Enlarges only the part of a picture that a crop keeps, with the bits of Pillow's bicubic filter.

A picture of 60,000 x 4 pixels becomes 3,360,000 x 224 before its middle is cropped: 7 GB. Pillow's
own `box` rounds to single precision, so its bits can differ from those of the whole picture. Here
the weights of the filter are computed as Pillow computes them, for the kept pixels alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUPPORT = 2.0
"""Reach of the bicubic filter in pixels of the source."""
_BITS = 22
"""Bits behind the point of Pillow's integer weights for 8-bit pictures."""


def enlarged_crop(
    image: NDArray[np.uint8], *, size: tuple[int, int], left: int, top: int, side: int
) -> NDArray[np.uint8]:
    """Returns a square of the picture that `Image.resize(size, BICUBIC)` would return.

    Only for sizes that are no smaller than the picture's: Pillow 13 shrinks some pictures row by
    row first, and Pillow 12 never does.

    Args:
        image: The picture.
        size: Width and height of the resized picture.
        left: First column of the square in the resized picture.
        top: First row of the square.
        side: Width and height of the square.

    Shapes:
        image: (height, width, channels).
        returns: (side, side, channels).
    Source: Pillow's `Resample.c`; each row is resampled first, and rounded, then each column. Where
        a compiler fuses multiplications and additions (as on ARM), a weight can differ in its last
        bit.
    """
    height, width, _ = image.shape
    columns, first_column = _weights(width, out=size[0], start=left, stop=left + side)
    rows, first_row = _weights(height, out=size[1], start=top, stop=top + side)
    part = image[
        first_row : first_row + rows.shape[1], first_column : first_column + columns.shape[1]
    ]
    across = _rounded(np.einsum("os,rsc->roc", columns, part, optimize=True))
    return _rounded(np.einsum("os,scx->ocx", rows, across, optimize=True))


def _rounded(sums: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Rounds sums of integer weights times pixels, which are exact in double precision."""
    return np.clip(np.floor((sums + (1 << (_BITS - 1))) / (1 << _BITS)), 0, 255).astype(np.uint8)


def _weights(source: int, *, out: int, start: int, stop: int) -> tuple[NDArray[np.float64], int]:
    """Returns the integer weights of some pixels of a resized line.

    Args:
        source: Pixels of the line.
        out: Pixels of the whole resized line.
        start: First pixel that is kept of these.
        stop: Pixel behind the last one that is kept.

    Returns:
        Weights of shape (stop - start, pixels of the line that count), and the first such pixel.
    """
    if out == source:  # Pillow leaves the line as it is
        return np.eye(stop - start) * (1 << _BITS), start
    found = [_weights_of(pixel, source=source, scale=source / out) for pixel in range(start, stop)]
    first, end = found[0][0], max(at + len(weights) for at, weights in found)
    table = np.zeros((len(found), end - first))
    for row, (at, weights) in zip(table, found, strict=True):
        row[at - first : at - first + len(weights)] = weights
    return table, first


def _weights_of(pixel: int, *, source: int, scale: float) -> tuple[int, list[int]]:
    """Returns the first pixel of the source that counts for a resized pixel, and the weights."""
    center = (pixel + 0.5) * scale
    first = max(0, int(center - _SUPPORT + 0.5))
    end = min(source, int(center + _SUPPORT + 0.5))
    weights = [_bicubic(each - center + 0.5) for each in range(first, end)]
    total = 0.0
    for weight in weights:  # one after another, as Pillow adds them
        total += weight
    fractions = [weight / total for weight in weights]
    return first, [int(math.copysign(0.5, each) + each * (1 << _BITS)) for each in fractions]


def _bicubic(distance: float) -> float:
    a, x = -0.5, abs(distance)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < _SUPPORT else 0.0

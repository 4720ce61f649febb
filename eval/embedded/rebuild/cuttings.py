"""Cuts telling windows of the simulated textiles, for rebuilding.

A flaw of class ``local`` covers about 8 x 15 pixels of 250 x 250 and would vanish if a picture were
shrunk to the size of a composed image. Every picture, of whatever class, is therefore cut around
its most jagged spot, which is the flaw where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from eval.embedded.textile import CUTTING_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from eval.embedded.vendored import Pixels

_COLUMNS = 50
_FRAME = 4  # pixels: the pictures end in a white line on two sides
_SPOT_SIGMA = 4.0  # pixels: about the size of a flaw
_MAX_SHIFT = 16  # pixels by which the spot lies beside the middle of a cutting


def sheet_of_cuttings(
    folders: list[Path], *, num_per_class: int, rng: np.random.Generator
) -> Image.Image:
    """Lays one cutting of each picture out in rows, class by class."""
    cuttings = [
        _cut(np.asarray(Image.open(path).convert("L"))[_FRAME:-_FRAME, _FRAME:-_FRAME], rng=rng)
        for folder in folders
        for path in sorted(folder.glob("*.jpg"))[:num_per_class]
    ]
    rows = np.stack(cuttings).reshape(-1, _COLUMNS, CUTTING_SIZE, CUTTING_SIZE)
    sheet = rows.swapaxes(1, 2).reshape(-1, _COLUMNS * CUTTING_SIZE)
    return Image.fromarray(np.ascontiguousarray(sheet))


def _cut(picture: Pixels, *, rng: np.random.Generator) -> Pixels:
    roughness = ndimage.gaussian_filter(
        ndimage.laplace(picture.astype(np.float64)) ** 2, _SPOT_SIGMA
    )
    spot = np.unravel_index(roughness.argmax(), picture.shape)
    middle = np.array(spot) + rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1, 2)
    top, left = np.clip(middle - CUTTING_SIZE // 2, 0, np.array(picture.shape) - CUTTING_SIZE)
    return picture[top : top + CUTTING_SIZE, left : left + CUTTING_SIZE]

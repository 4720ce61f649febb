"""Crops the simulated textiles around their roughest spots.

A flaw of class ``local`` covers about 8 x 15 pixels of 250 x 250 and would vanish if the picture
were shrunk to the size of a composed image. Every picture of every class is therefore cropped
around its roughest spot, which is the flaw if there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from eval.embedded.textile import CROP_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from eval.embedded.vendored import Pixels

_COLUMNS = 50
_FRAME = 4  # pixels: the pictures have a white line on two sides
_SPOT_SIGMA = 4.0  # pixels, about the size of a flaw
_MAX_SHIFT = 16  # pixels, largest distance of the spot from the middle of a crop


def sheet_of_crops(
    folders: list[Path], *, num_per_class: int, rng: np.random.Generator
) -> Image.Image:
    """Arranges one crop of each picture in rows, class by class."""
    crops = [
        _crop(np.asarray(Image.open(path).convert("L"))[_FRAME:-_FRAME, _FRAME:-_FRAME], rng=rng)
        for folder in folders
        for path in sorted(folder.glob("*.jpg"))[:num_per_class]
    ]
    rows = np.stack(crops).reshape(-1, _COLUMNS, CROP_SIZE, CROP_SIZE)
    sheet = rows.swapaxes(1, 2).reshape(-1, _COLUMNS * CROP_SIZE)
    return Image.fromarray(np.ascontiguousarray(sheet))


def _crop(picture: Pixels, *, rng: np.random.Generator) -> Pixels:
    roughness = ndimage.gaussian_filter(
        ndimage.laplace(picture.astype(np.float64)) ** 2, _SPOT_SIGMA
    )
    spot = np.unravel_index(roughness.argmax(), picture.shape)
    middle = np.array(spot) + rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1, 2)
    top, left = np.clip(middle - CROP_SIZE // 2, 0, np.array(picture.shape) - CROP_SIZE)
    return picture[top : top + CROP_SIZE, left : left + CROP_SIZE]

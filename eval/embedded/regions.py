"""Composes the regions task: patches of a map of the Earth, labelled by region."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.embedded.backdrops import EARTH
from eval.embedded.patches import Box, PatchArea, compose_patches
from eval.embedded.randomness import held_out, random_stream
from eval.embedded.vendored import Pixels, read_picture

if TYPE_CHECKING:
    import numpy as np

    from eval.images.split import Split
    from eval.tasks import Task

REGIONS: dict[str, Box] = {
    "sahara": (18, -10, 30, 30),
    "amazon": (-10, -72, 2, -54),
    "siberia": (55, 85, 68, 125),
    "greenland": (66, -50, 80, -30),
    "tibet": (28, 78, 38, 100),
    "outback": (-30, 118, -18, 142),
    "us_plains": (33, -106, 47, -92),
    "congo": (-6, 12, 6, 30),
    "india": (12, 73, 27, 86),
    "europe": (43, 0, 55, 28),
    "arabia": (15, 41, 31, 56),
    "andes": (-50, -75, -14, -66),
    "canada_shield": (48, -95, 62, -68),
    "sea_islands": (-9, 95, 8, 130),
}
"""South, west, north and east of each region, in degrees; no two overlap."""

_PIXELS_PER_DEGREE = 15
_PATCH_SIZE = 40  # 2.7 degrees, about 300 km of latitude
_CELL_SIZE = 60  # a cell belongs to one split, so patches of two splits share no pixel
_TEST_CELLS_FRAC = 0.25
_MAX_WATER_FRAC = 0.5  # the sea looks alike in every region


def compose_regions(task: Task) -> dict[str, Split]:
    """Crops patches from the cells of every region; a quarter of the cells is for the test."""
    earth = read_picture(EARTH)
    rng = random_stream(task.name, "cells")
    areas = [_area(REGIONS[name], earth=earth, rng=rng) for name in task.classes]
    return compose_patches(task, areas=areas)


def _area(region: Box, *, earth: Pixels, rng: np.random.Generator) -> PatchArea:
    cells = [cell for cell in _cells(region) if _is_land(_part(earth, box=cell))]
    dealt = held_out(list(range(len(cells))), frac=_TEST_CELLS_FRAC, rng=rng)
    return PatchArea(
        picture=earth,
        boxes={split: [cells[number] for number in chosen] for split, chosen in dealt.items()},
        patch_size=_PATCH_SIZE,
        is_informative=_is_land,
    )


def _cells(region: Box) -> list[Box]:
    """Returns the whole cells that fit into a region."""
    south, west, north, east = region
    top, bottom = (90 - north) * _PIXELS_PER_DEGREE, (90 - south) * _PIXELS_PER_DEGREE
    left, right = (180 + west) * _PIXELS_PER_DEGREE, (180 + east) * _PIXELS_PER_DEGREE
    return [
        (row, column, row + _CELL_SIZE, column + _CELL_SIZE)
        for row in range(top, bottom - _CELL_SIZE + 1, _CELL_SIZE)
        for column in range(left, right - _CELL_SIZE + 1, _CELL_SIZE)
    ]


def _is_land(pixels: Pixels) -> bool:
    """Returns whether a crop is mostly land: in water, blue exceeds red by half; in ice, not."""
    red, blue = pixels[..., 0].astype(float), pixels[..., 2].astype(float)
    return bool((blue > 1.5 * red).mean() <= _MAX_WATER_FRAC)


def _part(picture: Pixels, *, box: Box) -> Pixels:
    top, left, bottom, right = box
    return picture[top:bottom, left:right]

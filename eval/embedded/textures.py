"""Composes the textures task: patches of scikit-image's photographs, one photograph per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.embedded.index import read_index
from eval.embedded.patches import PatchArea, compose_patches
from eval.embedded.vendored import Pixels, read_picture

if TYPE_CHECKING:
    from eval.images.split import Split
    from eval.tasks import Task

_PATCH_SIZE = 64
_MIN_PATCHES_HIGH = 4  # patches that fit into the height; small photographs get smaller patches
TRAIN_SIDE_FRAC, TEST_SIDE_FRAC = 0.60, 0.62
"""End of the left side and start of the right side, as fractions of the width, with a gap."""

_MIN_STD = 4.0  # grey levels: black sky and blank paper occur in several photographs


def compose_textures(task: Task) -> dict[str, Split]:
    """Crops each photograph: the left side for training, the right side for the test."""
    sources = read_index()["tasks"][task.name]["sources"]  # in the order of the classes
    return compose_patches(task, areas=[_area(read_picture(source)) for source in sources])


def _area(picture: Pixels) -> PatchArea:
    height, width, _ = picture.shape
    return PatchArea(
        picture=picture,
        boxes={
            "train": [(0, 0, height, int(TRAIN_SIDE_FRAC * width))],
            "test": [(0, int(TEST_SIDE_FRAC * width), height, width)],
        },
        patch_size=min(_PATCH_SIZE, height // _MIN_PATCHES_HIGH),
        is_informative=_has_texture,
    )


def _has_texture(pixels: Pixels) -> bool:
    return bool(pixels.std(axis=(0, 1)).mean() >= _MIN_STD)

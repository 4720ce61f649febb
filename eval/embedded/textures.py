"""Composes the textures task: patches of scikit-image's photographs, one a class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.embedded.index import read_index
from eval.embedded.patches import Quarry, compose_patches
from eval.embedded.vendored import Pixels, read_picture

if TYPE_CHECKING:
    from eval.images.split import Split
    from eval.tasks import Task

_PATCH_SIZE = 64
_MIN_PATCHES_HIGH = 4  # small photographs get smaller patches
TRAIN_SIDE_FRAC, TEST_SIDE_FRAC = 0.60, 0.62
"""Where the left side ends and the right begins, as shares of the width: a gap between."""

_MIN_STD = 4.0  # grey levels: black sky and blank paper occur in several photographs


def compose_textures(task: Task) -> dict[str, Split]:
    """Cuts patches of each photograph: of its left side for training, of its right for the test."""
    sources = read_index()["tasks"][task.name]["sources"]  # in the order of the classes
    return compose_patches(task, quarries=[_quarry(read_picture(source)) for source in sources])


def _quarry(picture: Pixels) -> Quarry:
    height, width, _ = picture.shape
    return Quarry(
        picture=picture,
        boxes={
            "train": [(0, 0, height, int(TRAIN_SIDE_FRAC * width))],
            "test": [(0, int(TEST_SIDE_FRAC * width), height, width)],
        },
        patch_size=min(_PATCH_SIZE, height // _MIN_PATCHES_HIGH),
        is_telling=_has_texture,
    )


def _has_texture(pixels: Pixels) -> bool:
    return bool(pixels.std(axis=(0, 1)).mean() >= _MIN_STD)

"""Composes the stain task: whether the tissue in the middle of a patch is stained brown.

As in PCam, only the middle of a patch decides, so its surroundings may mislead.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from eval.embedded.patches import PatchArea, compose_patches
from eval.embedded.randomness import random_stream
from eval.embedded.textures import TEST_SIDE_FRAC, TRAIN_SIDE_FRAC
from eval.embedded.vendored import Pixels, read_picture
from eval.images.split import Split

if TYPE_CHECKING:
    from eval.tasks import Task

_PHOTOGRAPH = "skimage:ihc.png"
_PATCH_SIZE = 32
_MIDDLE = slice(10, 22)
_BROWN_EXCESS = {
    "unstained": (-10.0, 3.0),
    "stained": (10.0, 25.0),
}  # stronger colours are too easy
_GAIN = (0.7, 1.15)  # factor on each colour: dyes and lamps differ between laboratories


def compose_stains(task: Task) -> dict[str, Split]:
    """Crops patches from the photograph's side that the textures task gives each split."""
    photograph = read_picture(_PHOTOGRAPH)
    height, width, _ = photograph.shape
    boxes = {
        "train": [(0, 0, height, int(TRAIN_SIDE_FRAC * width))],
        "test": [(0, int(TEST_SIDE_FRAC * width), height, width)],
    }
    areas = [
        PatchArea(
            picture=photograph,
            boxes=boxes,
            patch_size=_PATCH_SIZE,
            is_informative=partial(_is_within, bounds=_BROWN_EXCESS[name]),
        )
        for name in task.classes
    ]
    return {
        split: Split(
            images=_relit(patches.images, rng=random_stream(task.name, split, "light")),
            labels=patches.labels,
        )
        for split, patches in compose_patches(task, areas=areas).items()
    }


def brown_excess(patch: Pixels) -> float:
    """Returns how much red exceeds blue in the middle of a patch, in grey levels."""
    middle = patch[_MIDDLE, _MIDDLE].astype(np.float64)
    return float((middle[..., 0] - middle[..., 2]).mean())


def _is_within(patch: Pixels, *, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= brown_excess(patch) < bounds[1]


def _relit(images: Pixels, *, rng: np.random.Generator) -> Pixels:
    gains = rng.uniform(*_GAIN, (len(images), 1, 1, images.shape[-1]))
    return np.clip(np.rint(images * gains), 0, 255).astype(np.uint8)

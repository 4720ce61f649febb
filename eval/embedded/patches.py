"""Cuts labelled patches out of large pictures, from boxes that the splits do not share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from eval.embedded.randomness import SPLITS, random_stream
from eval.images.split import Split

if TYPE_CHECKING:
    from collections.abc import Callable

    from eval.embedded.vendored import Pixels
    from eval.tasks import Task

_SIZE = 64
_MIRRORED_FRAC = 0.5
_MAX_DRAWS = 1000  # a patch is refused in at most half of the draws; more says that boxes are bad

Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a part of a picture, in pixels; the last two are outside."""


@dataclass(frozen=True, kw_only=True)
class Quarry:
    """Says where the patches of one class are cut."""

    picture: Pixels
    """Pixels, (height, width, 3)."""
    boxes: dict[str, list[Box]]
    """Boxes of each split; a patch lies whole in one of them."""
    patch_size: int
    """Edge of a patch, in pixels of the picture."""
    is_telling: Callable[[Pixels], bool]
    """Tells whether a patch shows anything of its class."""


def compose_patches(task: Task, *, quarries: list[Quarry]) -> dict[str, Split]:
    """Cuts equally many patches of every quarry, one quarry a class."""
    composed = {}
    for split, total in zip(SPLITS, (task.num_train, task.num_test), strict=True):
        rng = random_stream(task.name, split)
        num_per_class = total // task.num_classes
        images = [
            _cut(quarry, split=split, rng=rng) for quarry in quarries for _ in range(num_per_class)
        ]
        labels = np.repeat(np.arange(task.num_classes, dtype=np.int64), num_per_class)
        composed[split] = Split(images=np.stack(images), labels=labels)
    return composed


def _cut(quarry: Quarry, *, split: str, rng: np.random.Generator) -> Pixels:
    for _ in range(_MAX_DRAWS):
        patch = _draw(quarry, split=split, rng=rng)
        if quarry.is_telling(patch):
            break
    else:
        raise AssertionError(f"no telling patch in {quarry.boxes[split]}")
    if rng.random() < _MIRRORED_FRAC:
        patch = np.ascontiguousarray(patch[:, ::-1])
    return np.asarray(Image.fromarray(patch).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))


def _draw(quarry: Quarry, *, split: str, rng: np.random.Generator) -> Pixels:
    boxes, size = quarry.boxes[split], quarry.patch_size
    top, left, bottom, right = boxes[rng.integers(len(boxes))]
    row, column = rng.integers(top, bottom - size + 1), rng.integers(left, right - size + 1)
    return quarry.picture[row : row + size, column : column + size]

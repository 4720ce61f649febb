"""Crops labelled patches out of large pictures, from different boxes for each split."""

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
_MAX_DRAWS = 1000  # at most half of the draws are rejected, unless the boxes are wrong

Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a box in a picture, in pixels; bottom and right are exclusive."""


@dataclass(frozen=True, kw_only=True)
class PatchArea:
    """The parts of a picture from which the patches of one class are cropped."""

    picture: Pixels
    """Pixels, (height, width, 3)."""
    boxes: dict[str, list[Box]]
    """Boxes of each split; a patch lies completely in one box."""
    patch_size: int
    """Edge of a patch, in pixels of the picture."""
    is_informative: Callable[[Pixels], bool]
    """Returns whether a patch shows its class; other patches are drawn again."""


def compose_patches(task: Task, *, areas: list[PatchArea]) -> dict[str, Split]:
    """Crops the same number of patches from every area; there is one area per class."""
    composed = {}
    for split, total in zip(SPLITS, (task.num_train, task.num_test), strict=True):
        rng = random_stream(task.name, split)
        num_per_class = total // task.num_classes
        images = [_cut(area, split=split, rng=rng) for area in areas for _ in range(num_per_class)]
        labels = np.repeat(np.arange(task.num_classes, dtype=np.int64), num_per_class)
        composed[split] = Split(images=np.stack(images), labels=labels)
    return composed


def _cut(area: PatchArea, *, split: str, rng: np.random.Generator) -> Pixels:
    for _ in range(_MAX_DRAWS):
        patch = _draw(area, split=split, rng=rng)
        if area.is_informative(patch):
            break
    else:
        raise AssertionError(f"no informative patch in {area.boxes[split]}")
    if rng.random() < _MIRRORED_FRAC:
        patch = np.ascontiguousarray(patch[:, ::-1])
    return np.asarray(Image.fromarray(patch).resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))


def _draw(area: PatchArea, *, split: str, rng: np.random.Generator) -> Pixels:
    boxes, size = area.boxes[split], area.patch_size
    top, left, bottom, right = boxes[rng.integers(len(boxes))]
    row, column = rng.integers(top, bottom - size + 1), rng.integers(left, right - size + 1)
    return area.picture[row : row + size, column : column + size]

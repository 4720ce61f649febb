"""Composes tasks of sprites: pasted on backdrops, then degraded to look like bad photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from eval.embedded.backdrops import draw_backdrop
from eval.embedded.randomness import SPLITS, held_out, random_stream
from eval.embedded.vendored import Pixels, read_json, read_picture
from eval.images.split import Split

if TYPE_CHECKING:
    from eval.tasks import Task

_SIZE = 64
_SCALES = (0.62, 1.0)
_MAX_TURN_DEGREES = 18.0
_MAX_SKEW_FRAC = 0.12  # largest inward shift of a corner, as a fraction of the sprite
_BRIGHTNESS, _CONTRAST, _SATURATION = (0.55, 1.3), (0.6, 1.3), (0.5, 1.4)
_BLURRED_FRAC = 0.5
_BLUR_PIXELS = (0.2, 1.3)
_NOISE_STD = (1.0, 9.0)
_TEST_SPRITES_FRAC = 0.25


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The sprites of a task."""

    sprites: tuple[Image.Image, ...]
    """RGBA squares."""
    labels: tuple[int, ...]
    """Class of each sprite."""

    def of_class(self, label: int) -> list[int]:
        """Returns the numbers of the sprites of a class."""
        return [number for number, each in enumerate(self.labels) if each == label]


def compose_signs(task: Task) -> dict[str, Split]:
    """Composes traffic signs. As on the road, both splits show the same designs."""
    sheet = read_sheet("signs/signs")
    pools = [dict.fromkeys(SPLITS, sheet.of_class(label)) for label in range(task.num_classes)]
    return compose_sheet(task, sheet=sheet, pools=pools)


def compose_emoji(task: Task) -> dict[str, Split]:
    """Composes groups of emoji. No emoji of the test split is in the training split."""
    sheet = read_sheet("openmoji/emoji")
    rng = random_stream(task.name, "pools")
    pools = [
        held_out(sheet.of_class(label), frac=_TEST_SPRITES_FRAC, rng=rng)
        for label in range(task.num_classes)
    ]
    return compose_sheet(task, sheet=sheet, pools=pools)


def read_sheet(name: str) -> Sheet:
    """Reads a sheet of sprites: a picture with rows of squares, and the list of their classes."""
    listing = read_json(f"{name}.json")
    sprites = cut_sheet(
        f"{name}.png",
        size=listing["size"],
        columns=listing["columns"],
        numbers=list(range(len(listing["sprites"]))),
    )
    return Sheet(
        sprites=tuple(sprites), labels=tuple(sprite["label"] for sprite in listing["sprites"])
    )


def cut_sheet(source: str, *, size: int, columns: int, numbers: list[int]) -> list[Image.Image]:
    """Crops the sprites with these numbers out of a sheet, RGBA; numbers run along its rows."""
    sheet = Image.fromarray(read_picture(source, mode="RGBA"))
    corners = [(number % columns * size, number // columns * size) for number in numbers]
    return [sheet.crop((x, y, x + size, y + size)) for x, y in corners]


def compose_sheet(
    task: Task, *, sheet: Sheet, pools: list[dict[str, list[int]]]
) -> dict[str, Split]:
    """Composes the same number of images of every class.

    Args:
        task: The task.
        sheet: The task's sprites.
        pools: For each class, the numbers of the sprites that each split may show.
    """
    composed = {}
    for split, total in zip(SPLITS, (task.num_train, task.num_test), strict=True):
        rng = random_stream(task.name, split)
        num_per_class = total // task.num_classes
        chosen = [pool[split][i % len(pool[split])] for pool in pools for i in range(num_per_class)]
        images = [_photographed(sheet.sprites[number], split=split, rng=rng) for number in chosen]
        labels = np.repeat(np.arange(task.num_classes, dtype=np.int64), num_per_class)
        composed[split] = Split(images=np.stack(images), labels=labels)
    return composed


def _photographed(sprite: Image.Image, *, split: str, rng: np.random.Generator) -> Pixels:
    scene = Image.fromarray(draw_backdrop(_SIZE, split=split, rng=rng))
    posed = _posed(sprite, rng=rng)
    corner = rng.integers(0, _SIZE - posed.width + 1, 2)
    scene.paste(posed, (int(corner[0]), int(corner[1])), posed)
    scene = ImageEnhance.Brightness(scene).enhance(rng.uniform(*_BRIGHTNESS))
    scene = ImageEnhance.Contrast(scene).enhance(rng.uniform(*_CONTRAST))
    scene = ImageEnhance.Color(scene).enhance(rng.uniform(*_SATURATION))
    if rng.random() < _BLURRED_FRAC:
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(*_BLUR_PIXELS)))
    noise = rng.normal(0, rng.uniform(*_NOISE_STD), (_SIZE, _SIZE, 3))
    return np.clip(np.rint(np.asarray(scene) + noise), 0, 255).astype(np.uint8)


def _posed(sprite: Image.Image, *, rng: np.random.Generator) -> Image.Image:
    """Scales, rotates and skews a sprite."""
    size = int(_SIZE * rng.uniform(*_SCALES))
    small = sprite.resize((size, size), Image.Resampling.BILINEAR)
    angle = rng.uniform(-_MAX_TURN_DEGREES, _MAX_TURN_DEGREES)
    turned = small.rotate(angle, Image.Resampling.BILINEAR)
    inward = rng.uniform(0, _MAX_SKEW_FRAC * size, 8)
    outward = size - inward
    quad = (
        *inward[:2],  # upper left
        *(inward[2], outward[3]),  # lower left
        *outward[4:6],  # lower right
        *(outward[6], inward[7]),  # upper right
    )
    return turned.transform((size, size), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR)

"""Rasterises vector art: icons into sheets of sprites, fonts into glyphs."""

from __future__ import annotations

import importlib
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from pathlib import Path

    from eval.embedded.vendored import Pixels

SPRITE_SIZE = 64
"""Edge of a sprite in pixels: the size of a composed image, so sprites are never enlarged."""

SHEET_COLUMNS = 32
"""Sprites per row of a sheet."""

_OVERSAMPLING = 3
_GLYPH_SIZE = 32
_FONT_SIZE = 96  # pixels per em, about three times the size of a glyph

EMOJI_GROUPS: dict[str, tuple[str, ...]] = {
    "bird": ("animal-bird",),
    "bug": ("animal-bug",),
    "mammal": ("animal-mammal",),
    "marine": ("animal-marine", "food-marine"),
    "plant": ("plant-flower", "plant-other"),
    "fruit_vegetable": ("food-fruit", "food-vegetable"),
    "meal": ("food-prepared", "food-asian", "food-sweet"),
    "ground_vehicle": ("transport-ground",),
    "air_water_vehicle": ("transport-air", "transport-water"),
    "building": ("place-building", "place-religious", "place-other"),
    "clothing": ("clothing",),
    "tool": ("tool",),
}
"""The Unicode subgroups of each class of emoji_objects."""


def find_signs(folder: Path, *, classes: list[str]) -> dict[Path, int]:
    """Returns the labels of all national variants of the signs, ``<sign>--g<number>.svg``."""
    found = {}
    for path in sorted(folder.glob("*.svg")):
        sign = re.sub(r"--g\d+$", "", path.stem)
        if sign in classes:
            found[path] = classes.index(sign)
    return found


def find_emoji(folder: Path, *, names: list[dict[str, Any]], classes: list[str]) -> dict[Path, int]:
    """Returns the labels of the files of all emoji of the classes."""
    label_of = {group: i for i, c in enumerate(classes) for group in EMOJI_GROUPS[c]}
    found = {}
    for emoji in sorted(names, key=lambda emoji: int(emoji["sort_order"])):
        label = label_of.get(emoji["subcategory"])
        codes = (emoji["unified"], emoji["unified"].replace("-FE0F", ""))
        paths = [folder / f"{code}.svg" for code in codes]
        path = next((path for path in paths if path.exists()), None)
        if label is not None and path is not None:
            found[path] = label
    return found


def rasterise_svg(svg: str) -> Image.Image:
    """Draws an SVG in the middle of a transparent square."""
    # Imported by name because it is optional and has no types.
    resvg = importlib.import_module("resvg_py")
    drawn = resvg.svg_to_bytes(svg_string=svg, width=SPRITE_SIZE * _OVERSAMPLING)
    picture = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    return _squared(picture).resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.BOX)


def sheet_of_sprites(
    sprites: dict[Path, tuple[int, Image.Image]],
) -> tuple[Image.Image, dict[str, Any]]:
    """Arranges sprites in rows, without duplicates of earlier sprites, and lists them."""
    kept: dict[bytes, tuple[str, int, Image.Image]] = {}
    for path, (label, sprite) in sprites.items():
        kept.setdefault(sprite.tobytes(), (path.stem, label, sprite))
    sheet = lay_out([sprite for _, _, sprite in kept.values()])
    listed = [{"name": name, "label": label} for name, label, _ in kept.values()]
    return sheet, {"size": SPRITE_SIZE, "columns": SHEET_COLUMNS, "sprites": listed}


def lay_out(sprites: list[Image.Image]) -> Image.Image:
    """Arranges sprites in rows."""
    num_rows = -(-len(sprites) // SHEET_COLUMNS)
    sheet = Image.new("RGBA", (SHEET_COLUMNS * SPRITE_SIZE, num_rows * SPRITE_SIZE))
    for number, sprite in enumerate(sprites):
        row, column = divmod(number, SHEET_COLUMNS)
        sheet.paste(sprite, (column * SPRITE_SIZE, row * SPRITE_SIZE))
    return sheet


def glyphs_of_fonts(paths: list[Path], *, characters: str) -> Pixels:
    """Renders characters of each face, (faces, characters, size, size), white on black."""
    faces = [ImageFont.truetype(path, _FONT_SIZE) for path in paths]
    return np.stack([np.stack([_glyph(c, font=font) for c in characters]) for font in faces])


def _glyph(letter: str, *, font: ImageFont.FreeTypeFont) -> Pixels:
    canvas = Image.new("L", (3 * _FONT_SIZE, 3 * _FONT_SIZE))
    ImageDraw.Draw(canvas).text((_FONT_SIZE, _FONT_SIZE), letter, font=font, fill=255)
    box = canvas.getbbox()
    assert box is not None, f"{font.getname()} has no {letter}"
    glyph = _squared(canvas.crop(box))
    return np.asarray(glyph.resize((_GLYPH_SIZE, _GLYPH_SIZE), Image.Resampling.BOX))


def _squared(picture: Image.Image) -> Image.Image:
    edge = max(picture.size)
    square = Image.new(picture.mode, (edge, edge))
    square.paste(picture, ((edge - picture.width) // 2, (edge - picture.height) // 2))
    return square

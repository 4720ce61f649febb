"""Draws sample images of every embedded task: ``python -m eval.embedded.contact_sheet FILE``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from eval.embedded.build import compose_splits
from eval.embedded.index import embedded_task, read_index
from eval.embedded.randomness import random_stream
from eval.images.decoding import resized

if TYPE_CHECKING:
    from eval.embedded.vendored import Pixels

_SIZE = 48  # pixels, edge of an image
_NUM = {"train": 7, "test": 5}  # images per row
_GAP = 8  # pixels between the splits
_LABEL_WIDTH = 124
_QUALITY = 82  # JPEG


def main() -> None:
    """Parses the command line and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("file", type=Path, help="picture to write")
    parser.add_argument("tasks", nargs="*", default=read_index()["tasks"])
    options = parser.parse_args()
    if unknown := [name for name in options.tasks if name not in read_index()["tasks"]]:
        parser.error(f"no embedded task has the name {unknown[0]!r}")
    draw_sheet(list(options.tasks)).save(options.file, quality=_QUALITY)


def draw_sheet(task_names: list[str]) -> Image.Image:
    """Draws one row per task: its name, then images of its training and of its test split."""
    width = _LABEL_WIDTH + sum(_NUM.values()) * _SIZE + _GAP
    sheet = Image.new("RGB", (width, len(task_names) * _SIZE), "white")
    for row, name in enumerate(task_names):
        top = row * _SIZE
        ImageDraw.Draw(sheet).text((4, top + _SIZE // 3), name, fill="black", font_size=12)
        left = _LABEL_WIDTH
        for split, composed in compose_splits(embedded_task(name)).items():
            # The order in which a study stores the images.
            order = random_stream(name, split, "order").permutation(len(composed))
            images = [composed.image(int(index)) for index in order[: _NUM[split]]]
            _paste(sheet, images=images, corner=(left, top))
            left += _NUM[split] * _SIZE + _GAP
    return sheet


def _paste(sheet: Image.Image, *, images: list[Pixels], corner: tuple[int, int]) -> None:
    for number, image in enumerate(images):
        small = resized(image, image_size=_SIZE, channels=image.shape[-1])
        sheet.paste(Image.fromarray(small.squeeze()), (corner[0] + number * _SIZE, corner[1]))


if __name__ == "__main__":
    main()

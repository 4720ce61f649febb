"""Composes the tasks of letters and of kana: glyphs of fonts, moved, rotated and bent.

The test split shows only font families that the training split does not show. Every class has two
forms: lower and upper case for a letter, hiragana and katakana for a syllable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from eval.embedded.digits import with_channel
from eval.embedded.index import read_index
from eval.embedded.randomness import held_out, random_stream
from eval.embedded.vendored import Pixels, read_arrays, read_json
from eval.images.split import Split

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from eval.tasks import Task

_SIZE = 28  # like EMNIST's letters
_TEST_FAMILIES_FRAC = 0.22
_BEND_SIGMA = 3.0  # pixels, smoothing of the displacements
_BEND_REACH = 6.0  # factor on smoothed uniform draws (std 0.06): displacements of 0.4 pixels
_SCALES = (0.62, 0.92)
_MAX_TURN_DEGREES = 12.0


def compose_glyphs(task: Task) -> dict[str, Split]:
    """Composes every class from glyphs of both forms, in the split's font families."""
    faces_source, glyphs_source = read_index()["tasks"][task.name]["sources"]
    glyphs = read_arrays(glyphs_source)["glyphs"]  # (faces, 2 * classes, size, size)
    faces = faces_by_split(read_json(faces_source)["fonts"], task_name=task.name)
    counts = {"train": task.num_train, "test": task.num_test}
    return {
        split: _compose_split(
            glyphs[faces[split]],
            num_per_class=counts[split] // task.num_classes,
            rng=random_stream(task.name, split),
        )
        for split in faces
    }


def faces_by_split(fonts: list[dict[str, object]], *, task_name: str) -> dict[str, list[int]]:
    """Assigns font families to the splits of a task, and returns the faces of each split."""
    families = sorted({str(font["family"]) for font in fonts})
    dealt = held_out(
        list(range(len(families))),
        frac=_TEST_FAMILIES_FRAC,
        rng=random_stream(task_name, "families"),
    )
    return {
        split: [
            face
            for face, font in enumerate(fonts)
            if families.index(str(font["family"])) in set(chosen)
        ]
        for split, chosen in dealt.items()
    }


def _compose_split(glyphs: Pixels, *, num_per_class: int, rng: np.random.Generator) -> Split:
    num_classes = glyphs.shape[1] // 2
    placed = []
    for label in range(num_classes):
        pool = np.concatenate([glyphs[:, label], glyphs[:, num_classes + label]])
        # A pool that is too small repeats its glyphs, in other positions.
        chosen = np.resize(rng.permutation(len(pool)), num_per_class)
        placed += [_placed(pool[glyph], rng=rng) for glyph in chosen]
    labels = np.repeat(np.arange(num_classes, dtype=np.int64), num_per_class)
    return Split(images=with_channel(_bent(np.stack(placed), rng=rng)), labels=labels)


def _placed(glyph: Pixels, *, rng: np.random.Generator) -> Pixels:
    """Scales a glyph, places it on the canvas and rotates it, all at random."""
    size = round(_SIZE * rng.uniform(*_SCALES))
    small = Image.fromarray(glyph).resize((size, size), Image.Resampling.BILINEAR)
    canvas = Image.new("L", (_SIZE, _SIZE))
    corner = rng.integers(0, _SIZE - size + 1, 2)
    canvas.paste(small, (int(corner[0]), int(corner[1])))
    angle = rng.uniform(-_MAX_TURN_DEGREES, _MAX_TURN_DEGREES)
    return np.asarray(canvas.rotate(angle, Image.Resampling.BILINEAR))


def _bent(images: Pixels, *, rng: np.random.Generator) -> Pixels:
    """Bends images by smooth random displacements, to resemble handwriting."""
    bends = rng.uniform(-1, 1, (2, *images.shape))
    smooth = ndimage.gaussian_filter(bends, (0, 0, _BEND_SIGMA, _BEND_SIGMA)) * _BEND_REACH
    number, row, column = np.indices(images.shape)
    where = np.stack([number, row + smooth[0], column + smooth[1]])
    bent: NDArray[np.float64] = ndimage.map_coordinates(images.astype(np.float64), where, order=1)
    return np.clip(np.rint(bent), 0, 255).astype(np.uint8)

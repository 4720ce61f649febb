"""Composes the review words task: twenty words of film reviews, in many fonts.

Each word is a class. The test split shows the same words in font families that the training split
does not show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from eval.embedded.digits import with_channel
from eval.embedded.glyphs import faces_by_split
from eval.embedded.randomness import SPLITS, random_stream
from eval.embedded.vendored import Pixels, read_arrays, read_json
from eval.images.split import Split

if TYPE_CHECKING:
    from eval.tasks import Task

_WORDS = "words/words.json"
_FACES, _GLYPHS = "glyphs/fonts.json", "glyphs/letters.npz"
_SIZE = 64
_FIRST_CAPITAL = 26  # of the 52 glyphs of a face; capitals share one baseline and height
_CAP_HEIGHT = 20  # pixels, before a word is scaled
_SPACE = 3  # pixels between letters, before a word is scaled
_WIDTHS = (48, 60)  # pixels, width of a scaled word
_MAX_HEIGHT = 30
_MAX_TURN_DEGREES = 8.0


def compose_words(task: Task) -> dict[str, Split]:
    """Renders the word of each class, each time in a random face of the split."""
    words = [word for group in read_json(_WORDS).values() for word in group]
    assert tuple(words) == task.classes, "the catalogue has other words as classes"
    glyphs = read_arrays(_GLYPHS)["glyphs"][:, _FIRST_CAPITAL:]
    faces = faces_by_split(read_json(_FACES)["fonts"], task_name="font_letters")
    composed = {}
    for split, total in zip(SPLITS, (task.num_train, task.num_test), strict=True):
        rng = random_stream(task.name, split)
        num_per_class = total // task.num_classes
        images = [
            _paper(_set(word, face=glyphs[rng.choice(faces[split])]), rng=rng)
            for word in words
            for _ in range(num_per_class)
        ]
        labels = np.repeat(np.arange(task.num_classes, dtype=np.int64), num_per_class)
        composed[split] = Split(images=with_channel(np.stack(images)), labels=labels)
    return composed


def _set(word: str, *, face: Pixels) -> Image.Image:
    """Renders a word in capitals, white on black."""
    letters = [_trimmed(face[ord(letter) - ord("a")]) for letter in word]
    width = sum(letter.width for letter in letters) + _SPACE * (len(letters) - 1)
    line = Image.new("L", (width, _CAP_HEIGHT))
    left = 0
    for letter in letters:
        line.paste(letter, (left, 0))
        left += letter.width + _SPACE
    return line


def _trimmed(glyph: Pixels) -> Image.Image:
    """Scales a letter to the common height, without the margins of its square glyph."""
    picture = Image.fromarray(glyph)
    letter = picture.crop(picture.getbbox())
    width = max(1, round(letter.width * _CAP_HEIGHT / letter.height))
    return letter.resize((width, _CAP_HEIGHT), Image.Resampling.BICUBIC)


def _paper(line: Image.Image, *, rng: np.random.Generator) -> Pixels:
    """Places a word at random on an image, dark on light or light on dark."""
    width = int(rng.integers(_WIDTHS[0], _WIDTHS[1] + 1))
    height = min(_MAX_HEIGHT, max(1, round(line.height * width / line.width)))
    fitted = line.resize((width, height), Image.Resampling.BICUBIC)
    sheet = Image.new("L", (_SIZE, _SIZE))
    corner = rng.integers(0, (_SIZE - width + 1, _SIZE - height + 1))
    sheet.paste(fitted, (int(corner[0]), int(corner[1])))
    angle = rng.uniform(-_MAX_TURN_DEGREES, _MAX_TURN_DEGREES)
    cover = np.asarray(sheet.rotate(angle, Image.Resampling.BILINEAR)) / 255
    dark, light = rng.uniform(0, 80), rng.uniform(170, 255)
    paper, ink = (light, dark) if rng.random() < 0.5 else (dark, light)  # noqa: PLR2004 a fair coin
    return np.rint(paper * (1 - cover) + ink * cover).astype(np.uint8)

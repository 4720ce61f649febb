"""Composes the splits of an embedded task at the native size of its sources.

The same sources give the same bytes on every run. This holds for the versions of Pillow, SciPy and
NumPy that the project's requirements pin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.embedded.designs import compose_designs
from eval.embedded.digits import compose_fashion, compose_mnist, compose_uci
from eval.embedded.glyphs import compose_glyphs
from eval.embedded.overlays import compose_overlays
from eval.embedded.regions import compose_regions
from eval.embedded.sprites import compose_emoji, compose_signs
from eval.embedded.stains import compose_stains
from eval.embedded.textile import compose_textile
from eval.embedded.textures import compose_textures
from eval.embedded.words import compose_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from eval.images.split import Split
    from eval.tasks import Task

COMPOSERS: dict[str, Callable[[Task], dict[str, Split]]] = {
    "mnist_5k": compose_mnist,
    "fashion_mnist_5k": compose_fashion,
    "font_letters": compose_glyphs,
    "traffic_signs": compose_signs,
    "bluemarble_regions": compose_regions,
    "skimage_textures": compose_textures,
    "emoji_objects": compose_emoji,
    "mnist_m": compose_overlays,
    "digits8x8": compose_uci,
    "kana": compose_glyphs,
    "ihc_stain": compose_stains,
    "textile": compose_textile,
    "review_words": compose_words,
    "emoji_animals": compose_designs,
    "emoji_plants": compose_designs,
    "emoji_food": compose_designs,
    "emoji_vehicles": compose_designs,
    "emoji_places": compose_designs,
    "emoji_faces": compose_designs,
    "emoji_flags": compose_designs,
}
"""The function that composes each task, class by class."""


def compose_splits(task: Task) -> dict[str, Split]:
    """Composes the training and the test split of an embedded task, deterministic bit for bit.

    Returns:
        ``train`` and ``test``, class by class; each is an `eval.images.protocol.ImageSource`.

    Raises:
        SourceDigestError: A source is not the file that the index describes.
    """
    return COMPOSERS[task.name](task)

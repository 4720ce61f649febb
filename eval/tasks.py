"""The type of a task. Importing it costs nothing: neither numpy nor any image is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass

from eval.digests import sha256_of_bytes


@dataclass(frozen=True, kw_only=True)
class Task:
    """An image-classification data set with its label space and its two splits."""

    name: str
    """Name in studies, plans and tables."""
    classes: tuple[str, ...]
    """Class names; a label is a position in this tuple."""
    num_train: int
    """Images in the training split."""
    num_test: int
    """Images in the test split."""
    channels: int
    """1 for greyscale, 3 for colour."""
    stands_in_for: str
    """The data set whose place this task takes. A task is that data set only if it says so."""
    material: str
    """``real``, ``rendered``, ``composed`` or ``simulated``; ``own`` for a study's own task."""
    licence: str
    """Licence of the images."""
    fingerprint: str
    """Hex sha256 over everything that decides the images and labels."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    """Prompts of zero-shot heads, ``{}`` for the class. They do not decide the images, so the
    fingerprint leaves them out."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


def fingerprint_of(values: object) -> str:
    """Returns the fingerprint of plain values: the hex sha256 of their JSON."""
    return sha256_of_bytes(json.dumps(values, sort_keys=True).encode())

"""Tells of merged tensors far beyond the models that they were made from.

Such a merge is finite and therefore a result, but rarely a model: rescaled random draws or a wrong
scaling have blown it up.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge.weight import greatest_magnitude

if TYPE_CHECKING:
    from collections.abc import Iterator

    from merge.weight import Weight

LEAST_RATIO = 1e3
"""A merged tensor is an outlier if its greatest magnitude is more than this many times that of the
base and of every expert."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A merged tensor far beyond the base and the experts."""

    name: str
    """Name of the tensor."""
    method: str
    greatest: float
    """The greatest magnitude of the merged tensor."""
    greatest_input: float
    """The greatest magnitude of that tensor in the base and all experts."""

    def __str__(self) -> str:
        """Returns the outlier as a user reads it."""
        return (
            f"{self.name} merged with {self.method} reaches {self.greatest:.3g}, though no value "
            f"of it in the base and the experts exceeds {self.greatest_input:.3g}"
        )


def outlier_of(weight: Weight, *, greatest: float, method: str) -> Outlier | None:
    """Returns the outlier if a merged tensor of a greatest magnitude is one, or None.

    The base and the experts are read block by block, up to the first block that shows that the
    merged tensor is none. That is nearly always the base's first.
    """
    bound = 0.0
    for magnitude in _magnitudes(weight.unchecked()):
        bound = max(bound, magnitude)
        if greatest <= LEAST_RATIO * bound:
            return None
    return Outlier(name=weight.name, method=method, greatest=greatest, greatest_input=bound)


def log_outlier(outlier: Outlier) -> None:
    """Logs an outlier as a warning."""
    _log.warning("%s", outlier)


def _magnitudes(weight: Weight) -> Iterator[float]:
    """Yields the greatest magnitudes of the blocks of the base and of every expert."""
    for block in weight.blocks:
        yield greatest_magnitude(block.base())
        yield from map(greatest_magnitude, block.experts())

"""MagMax: take each entry from the task vector with the largest magnitude there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.weight import Weight, by_block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from merge.parameters.sparse import MagMaxParams
    from merge.protocols import Recipe


def combine(weight: Weight, *, recipe: Recipe[MagMaxParams, None]) -> Tensor:
    """Returns the base plus the scaled entries of largest magnitude, with their signs.

    Of equal magnitudes, the first expert's entry is taken.

    Shapes: that of the weight.
    Source: Marczak 2024, section 4.2.
    Scope: tensor.
    """
    scaling = recipe.params.scaling
    return by_block(weight, lambda block: block.base() + scaling * _largest(block.task_vectors()))


def _largest(vectors: Iterator[Tensor]) -> Tensor:
    largest = next(vectors)
    for vector in vectors:
        # Multiplying by 0 and 1 is exact; selecting entries takes three times as long.
        is_larger = vector.abs().gt_(largest.abs())
        largest.mul_(1 - is_larger).add_(vector.mul_(is_larger))
    return largest

"""Iso-C: the sum of the task vectors with all its directions equally strong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.spectral import leading_triples, merge_matrices, smaller_side, task_matrices
from merge.weight import total

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.spectral import IsoCParams
    from merge.protocols import Recipe
    from merge.weight import Weight


def combine(weight: Weight, *, recipe: Recipe[IsoCParams, None]) -> Tensor:
    """Returns the base plus the scaled sum whose singular values are all replaced by their mean.

    Shapes: that of the weight.
    Source: Marczak 2025, algorithm 1; mean of the task vectors where the weight is no matrix.
        Directions that the sum lacks stay lacking, where the paper's are whatever the decomposition
        returns; the mean is over the full rank as there.
    Scope: tensor.
    """
    return merge_matrices(weight, merged=_merged, scaling=recipe.params.scaling)


def _merged(weight: Weight) -> Tensor:
    triples = leading_triples(total(task_matrices(weight)), rank=smaller_side(weight))
    return (triples.left * triples.values.mean()) @ triples.right

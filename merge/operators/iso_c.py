"""Iso-C: sum the task vectors and give all singular values of the sum the same size."""

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
    Source: Marczak 2025, algorithm 1; mean of the task vectors where the weight is no matrix. A
        singular value of zero keeps zero vectors here, where the paper takes whatever vectors the
        decomposition returns. As in the paper, the mean is over the full rank.
    Scope: tensor.
    """
    return merge_matrices(weight, merged=_merged, scaling=recipe.params.scaling)


def _merged(weight: Weight) -> Tensor:
    triples = leading_triples(total(task_matrices(weight)), rank=smaller_side(weight))
    return (triples.left * triples.values.mean()) @ triples.right

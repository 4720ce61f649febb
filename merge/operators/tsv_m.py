"""TSV-M: every task's leading singular vectors, orthogonalised across tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from merge.spectral import (
    leading_triples,
    merge_matrices,
    nearest_isometry,
    smaller_side,
    task_matrices,
)

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.spectral import TsvMParams
    from merge.protocols import Recipe
    from merge.weight import Weight


def combine(weight: Weight, *, recipe: Recipe[TsvMParams, None]) -> Tensor:
    """Returns the base plus the scaled task vector of orthogonalised singular vectors.

    Every expert keeps as many triples as fit when all share the rank, at least one. Memory is that
    of a few matrices in float64, however many experts there are, as long as these are no more than
    the rank.

    Shapes: that of the weight.
    Source: Gargiulo 2024, algorithm 1; mean of the task vectors where the weight is no matrix.
        Singular values of zero keep no vectors, which the paper leaves to the decomposition: with
        them equal experts would not merge to themselves.
    Scope: tensor.
    """
    return merge_matrices(weight, merged=_merged, scaling=recipe.params.scaling)


def _merged(weight: Weight) -> Tensor:
    rank = max(1, smaller_side(weight) // weight.num_experts)
    tasks = [leading_triples(matrix, rank=rank) for matrix in task_matrices(weight)]
    left = nearest_isometry(torch.cat([task.left for task in tasks], dim=1))
    right = nearest_isometry(torch.cat([task.right for task in tasks], dim=0))
    values = torch.cat([task.values for task in tasks])
    return (left * values) @ right

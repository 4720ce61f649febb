"""TSV-M: keep each task's leading singular vectors and orthogonalise them across tasks."""

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

    The experts share the rank equally: each keeps rank / experts singular triples (rounded down, at
    least one). Memory holds a few float64 matrices, whatever the number of experts, as long as it
    does not exceed the rank.

    Shapes: that of the weight.
    Source: Gargiulo 2024, algorithm 1; mean of the task vectors where the weight is no matrix.
        A singular value of zero keeps zero vectors here, where the paper takes whatever vectors the
        decomposition returns. With those, equal experts would not merge to themselves.
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

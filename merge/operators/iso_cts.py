"""Iso-CTS: join the sum's common directions with each task's own, all of equal size."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from merge.spectral import (
    Triples,
    leading_triples,
    merge_matrices,
    nearest_isometry,
    smaller_side,
    task_matrices,
)
from merge.weight import total

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.spectral import IsoCtsParams
    from merge.protocols import Recipe
    from merge.weight import Weight


def combine(weight: Weight, *, recipe: Recipe[IsoCtsParams, None]) -> Tensor:
    """Returns the base plus the scaled union of common and task-specific directions.

    The leading directions of the sum are common. The part of a task vector outside the span of the
    common left vectors is task-specific; its leading directions replace the last directions of the
    sum. All directions get the same singular value.

    Shapes: that of the weight.
    Source: Marczak 2025, algorithm 2; mean of the task vectors where the weight is no matrix. As in
        Iso-C, a singular value of zero keeps zero vectors.
    Scope: tensor.
    """
    params = recipe.params
    merged = partial(_merged, common_fraction=params.common_fraction)
    return merge_matrices(weight, merged=merged, scaling=params.scaling)


def ranks(full: int, *, num_experts: int, common_fraction: float) -> tuple[int, int]:
    """Returns the number of common directions, and the number of each task's own directions.

    All tasks get the same number. It is rounded to the nearest integer, as in the authors' code,
    but limited to the largest number with which all tasks fit into the rank.
    """
    left_over = full - int(full * common_fraction)
    own = min(round(left_over / num_experts), full // num_experts)
    return full - own * num_experts, own


def _merged(weight: Weight, *, common_fraction: float) -> Tensor:
    full = smaller_side(weight)
    num_common, num_own = ranks(
        full, num_experts=weight.num_experts, common_fraction=common_fraction
    )
    common = leading_triples(total(task_matrices(weight)), rank=num_common)
    parts = [common]
    if num_own:
        parts += [_own(matrix, common=common, rank=num_own) for matrix in task_matrices(weight)]
    left = nearest_isometry(torch.cat([part.left for part in parts], dim=1))
    right = nearest_isometry(torch.cat([part.right for part in parts], dim=0))
    strength = torch.cat([part.values for part in parts]).mean()
    return (left * strength) @ right


def _own(matrix: Tensor, *, common: Triples, rank: int) -> Triples:
    outside = matrix - common.left @ (common.left.T @ matrix)
    return leading_triples(outside, rank=rank)

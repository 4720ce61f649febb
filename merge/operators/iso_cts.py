"""Iso-CTS: common directions of the sum and each task's own, all equally strong."""

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
    """Returns the base plus the scaled, levelled union of common and task-specific directions.

    The sum's leading directions are common. What a task vector holds outside their left vectors is
    its own, and its leading directions take the places of the sum's last ones.

    Shapes: that of the weight.
    Source: Marczak 2025, algorithm 2; mean of the task vectors where the weight is no matrix. As in
        Iso-C, directions of no strength stay lacking.
    Scope: tensor.
    """
    params = recipe.params
    merged = partial(_merged, common_fraction=params.common_fraction)
    return merge_matrices(weight, merged=merged, scaling=params.scaling)


def ranks(full: int, *, num_experts: int, common_fraction: float) -> tuple[int, int]:
    """Returns how many directions are common, and how many are each task's own.

    What is not common is shared evenly, so it is rounded to a multiple of the tasks, the nearest as
    in the authors' code, or the last that fits where that exceeds the rank.
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

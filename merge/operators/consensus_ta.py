"""Consensus task arithmetic: add the task vectors, keep entries that enough tasks use."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from merge.weight import Weight, by_block, total

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.sparse import ConsensusTaParams
    from merge.protocols import Recipe


def combine(weight: Weight, *, recipe: Recipe[ConsensusTaParams, None]) -> Tensor:
    """Returns the base plus the scaled sum of the task vectors where enough tasks use the entry.

    A task uses an entry if |task vector| >= tall_lambda x |sum - task vector|.

    Shapes: that of the weight.
    Source: Wang 2024, sections 4.1 and 4.3, with one tall_lambda for all tasks and the unscaled sum
        as the multi-task vector.
    Scope: tensor.
    """
    return by_block(weight, partial(_add_used, params=recipe.params))


def _add_used(block: Weight, *, params: ConsensusTaParams) -> Tensor:
    merged = total(block.task_vectors())
    num_users = torch.zeros_like(merged)
    for vector in block.task_vectors():
        others = (merged - vector).abs_().mul_(params.tall_lambda)
        num_users += vector.abs_().ge_(others)
    is_used = num_users.ge_(params.min_tasks)
    return block.base() + merged.mul_(is_used).mul_(params.scaling)

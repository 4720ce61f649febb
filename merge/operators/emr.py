"""EMR-Merging: elect one task vector for all, mask and rescale it for each task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.weight import Weight, by_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from merge.parameters.per_task import EmrParams
    from merge.protocols import Recipe


@dataclass(frozen=True, kw_only=True)
class Rescalers:
    """The factors that give masked task vectors the L1 norms of the tasks' own vectors."""

    weights: Sequence[Weight]
    """All weights of the model, over which the norms are taken."""

    @cached_property
    def by_task(self) -> Sequence[float]:
        """One factor per task, measured on first use, since the model without masks needs none."""
        num_tasks = self.weights[0].num_experts if self.weights else 0
        own, masked = [0.0] * num_tasks, [0.0] * num_tasks
        for weight in self.weights:
            for block in weight.blocks:
                unified = _unified(block)
                for task in range(num_tasks):
                    own[task] += _l1(block.task_vector(task))
                    masked[task] += _l1(_masked(block, task, unified=unified))
        # An expert that agrees with no elected sign has an empty mask, so its factor has no effect.
        return [mine / kept if kept else 1.0 for mine, kept in zip(own, masked, strict=True)]


def measure_group(
    weights: Sequence[Weight],
    *,
    recipe: Recipe[EmrParams, None],  # noqa: ARG001 every method has this signature
) -> Rescalers:
    """Returns the rescalers of a group; they are measured on first use."""
    return Rescalers(weights=weights)


def combine(
    weight: Weight,
    *,
    recipe: Recipe[EmrParams, Rescalers],  # noqa: ARG001 every method has this signature
) -> Tensor:
    """Returns the base plus the unified task vector: the model without modules of any task.

    Shapes: that of the weight.
    Source: Huang 2024, section 3.2, the step `elect`. The paper never evaluates this model.
    Scope: tensor.
    """
    return by_block(weight, lambda block: block.base() + _unified(block))


def combine_for_task(weight: Weight, task: int, *, recipe: Recipe[EmrParams, Rescalers]) -> Tensor:
    """Returns the base plus the unified task vector, masked and rescaled for one task.

    Shapes: that of the weight.
    Source: Huang 2024, section 3.2, `mask` and `rescale`. Where task vectors cancel exactly, no
        sign is elected and the base stays.
    Scope: model, because of the rescaler.
    """
    factor = recipe.group_result.by_task[task]
    return by_block(
        weight,
        lambda block: block.base() + factor * _masked(block, task, unified=_unified(block)),
    )


def _unified(block: Weight) -> Tensor:
    """Returns for each entry the largest task vector value that has the sign of their sum."""
    balance = torch.zeros(block.shape, device=block.device)
    largest, smallest = torch.zeros_like(balance), torch.zeros_like(balance)
    for vector in block.task_vectors():
        balance += vector
        torch.maximum(largest, vector, out=largest)
        torch.minimum(smallest, vector, out=smallest)
    signs = balance.sign_()
    largest.mul_(signs.clamp(min=0))
    return largest.sub_(smallest.mul_(signs.clamp_(max=0)))


def _masked(block: Weight, task: int, *, unified: Tensor) -> Tensor:
    """Returns the unified task vector where the task's own vector has the same sign, else zero."""
    # Signs are multiplied, not values: the product of two small values underflows to zero.
    agrees = block.task_vector(task).sign_().mul_(unified.sign()).clamp_(min=0)
    return agrees.mul_(unified)


def _l1(vector: Tensor) -> float:
    return float(vector.abs().sum(dtype=torch.float64))

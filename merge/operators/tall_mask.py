"""TALL masks: each task keeps the entries that it needs of the sum of all task vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.operators import task_arithmetic
from merge.weight import Weight, by_block, total

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.per_task import TallMaskParams
    from merge.protocols import Recipe


def combine(weight: Weight, *, recipe: Recipe[TallMaskParams, None]) -> Tensor:
    """Returns task arithmetic's model, without masks.

    Shapes: that of the weight.
    Source: Wang 2024, section 3, the multi-task vector that the masks compress.
    Scope: tensor.
    """
    return task_arithmetic.add(weight, scaling=recipe.params.scaling)


def combine_for_task(weight: Weight, task: int, *, recipe: Recipe[TallMaskParams, None]) -> Tensor:
    """Returns the base plus the entries of the multi-task vector that one task needs.

    Shapes: that of the weight.
    Source: Wang 2024, equation 3 and the compression of section 4. The multi-task vector is the
        unscaled sum. All tasks share one lambda; the paper validates one per task.
    Scope: tensor.
    """
    least = recipe.params.tall_lambda
    return by_block(weight, lambda block: _localized(block, task, least=least))


def _localized(block: Weight, task: int, *, least: float) -> Tensor:
    multi_task = total(block.task_vectors())
    own = block.task_vector(task)
    others = multi_task - own
    is_needed = own.abs_().ge_(others.abs_().mul_(least))
    return multi_task.mul_(is_needed).add_(block.base())

"""Task arithmetic: add the scaled sum of the task vectors to the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.weight import Weight, by_block

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.linear import TaskArithmeticParams
    from merge.protocols import Recipe


def combine(weight: Weight, *, recipe: Recipe[TaskArithmeticParams, None]) -> Tensor:
    """Returns the base plus the scaled sum of the task vectors.

    Shapes: that of the weight.
    Source: Ilharco 2022, section 2, addition.
    Scope: tensor.
    """
    return add(weight, scaling=recipe.params.scaling)


def add(weight: Weight, *, scaling: float) -> Tensor:
    """Returns the base plus a multiple of the sum of the task vectors.

    Shapes: that of the weight.
    """
    return by_block(weight, lambda block: block.base() + scaling * block.sum_of_task_vectors())

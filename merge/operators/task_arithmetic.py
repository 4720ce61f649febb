"""Task arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.weight import Weight, total

if TYPE_CHECKING:
    from torch import Tensor

    from merge.method import Recipe
    from merge.params import TaskArithmeticParams


def combine(weight: Weight, *, recipe: Recipe[TaskArithmeticParams, None]) -> Tensor:
    """Returns the base plus the scaled sum of the task vectors.

    Shapes: that of the weight.
    Source: Ilharco 2022, section 2, addition.
    Scope: tensor.
    """
    task_vectors = (weight.task_vector(index) for index in range(weight.num_experts))
    return weight.base() + recipe.params.scaling * total(task_vectors)

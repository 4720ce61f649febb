"""Linear combinations of task vectors: made, and a loss differentiated by their coefficients.

Two passes over mapped files are all that learning coefficients takes besides the model's own
gradient, so that no task vector is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from merge.weight import Weight, by_block

VectorsOf = Callable[[Weight], Iterable[Tensor]]
"""Gives every expert's task vector of a block, new ones: `Weight.task_vectors`, or edited."""


def combination(
    weight: Weight,
    *,
    coefficients: Sequence[float],
    vectors_of: VectorsOf = Weight.task_vectors,
) -> Tensor:
    """Returns the base plus the sum of the task vectors, each times its coefficient.

    Shapes:
        coefficients: (experts,). returns: that of the weight.
    """

    def combine(block: Weight) -> Tensor:
        combined = block.base().clone()
        for coefficient, vector in zip(coefficients, vectors_of(block), strict=True):
            combined.add_(vector, alpha=coefficient)
        return combined

    return by_block(weight, combine)


def slopes(
    weight: Weight, gradient: Tensor, *, vectors_of: VectorsOf = Weight.task_vectors
) -> Tensor:
    """Returns a loss's derivatives by the coefficients: the gradient times each task vector.

    Shapes:
        gradient: that of the weight. returns: (experts,), float64 on the CPU.
    """
    flat = gradient.to(weight.device).reshape(-1)
    sums = torch.zeros(weight.num_experts, dtype=torch.float64)
    for block in weight.blocks:
        for index, vector in enumerate(vectors_of(block)):
            sums[index] += float(vector.mul_(flat[block.span]).sum(dtype=torch.float64))
    return sums


def slopes_of_all(
    weights: Sequence[Weight],
    gradient: Mapping[str, Tensor],
    *,
    vectors_of: VectorsOf = Weight.task_vectors,
) -> Tensor:
    """Returns the slopes of every weight; zeros where there is no gradient.

    Args:
        weights: At least one.
        gradient: By name, of the weights that the model trains.
        vectors_of: As in `slopes`.

    Shapes: (weights, experts), float64 on the CPU.
    """
    return torch.stack(
        [
            slopes(weight, gradient[weight.name], vectors_of=vectors_of)
            if weight.name in gradient
            else torch.zeros(weight.num_experts, dtype=torch.float64)
            for weight in weights
        ]
    )

"""Linear combinations of task vectors, and derivatives of a loss by their coefficients.

A step of learning coefficients takes one pass over the memory-mapped experts for each of the two,
and the gradient of the model in between. No task vector stays in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from merge.weight import Weight, by_block

VectorsOf = Callable[[Weight], Iterable[Tensor]]
"""Yields every expert's task vector of a block as a new tensor: `Weight.task_vectors`, or trimmed
ones."""


def combination(
    weight: Weight,
    *,
    coefficients: Sequence[float],
    vectors_of: VectorsOf = Weight.task_vectors,
) -> Tensor:
    """Returns the base plus the sum of the task vectors, each times its coefficient.

    Shapes:
        coefficients: (experts,).
        returns: that of the weight.
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
    """Returns a loss's derivatives by the coefficients of one weight.

    The derivative by an expert's coefficient is the inner product of the gradient by the weight
    with the expert's task vector.

    Shapes:
        gradient: that of the weight.
        returns: (experts,), float64 on the CPU.
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
    """Returns the slopes of every weight, with zeros for weights without a gradient.

    Args:
        weights: At least one weight.
        gradient: The gradient of each weight that the model trains, by name.
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

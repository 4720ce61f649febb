"""Averaging: the mean of the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.weight import Weight, by_block

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.linear import AverageParams
    from merge.protocols import Recipe


def combine(
    weight: Weight,
    *,
    recipe: Recipe[AverageParams, None],  # noqa: ARG001 every method has this signature
) -> Tensor:
    """Returns the mean of the experts.

    Shapes: that of the weight.
    Source: Wortsman 2022, uniform soup. The experts are averaged, not their task vectors, so
        rounding of the base does not enter.
    Scope: tensor.
    """
    return mean(weight)


def mean(weight: Weight) -> Tensor:
    """Returns the mean of the experts, which other methods use for tensors without a rule."""
    return by_block(weight, lambda block: block.sum_of_experts().div_(block.num_experts))

"""Weighted averaging: the mean of the experts with given weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.weight import Weight, by_block, total

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.linear import WeightedAverageParams
    from merge.protocols import Recipe


def combine(weight: Weight, *, recipe: Recipe[WeightedAverageParams, None]) -> Tensor:
    """Returns the mean of the experts, each with its share of the sum of the weights.

    Shapes: that of the weight.
    Source: Wortsman 2022, section 2, with weights; without weights it is the uniform soup. Running
        statistics follow their own policy and are not weighted.
    Scope: tensor.
    """
    weights = recipe.params.weights or (1.0,) * weight.num_experts
    shares = [each / sum(weights) for each in weights]
    return by_block(
        weight,
        lambda block: total(
            share * expert for share, expert in zip(shares, block.experts(), strict=True)
        ),
    )

"""Model Stock: interpolate from the base to the average by the angle between the experts."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import torch

from merge.weight import Weight, by_block, total

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from merge.parameters.linear import ModelStockParams
    from merge.protocols import Recipe


def combine(weight: Weight, *, recipe: Recipe[ModelStockParams, None]) -> Tensor:
    """Returns the point between base and average that is nearest to the centre of the experts.

    The result is the base plus t times the mean task vector, with t = N cos / ((N - 1) cos + 1) for
    N experts. For one expert t is 1.

    Shapes: that of the weight.
    Source: Jang 2024, section 4, per tensor. The paper assumes the same angle between all pairs of
        experts; the parameter `angle` selects the mean that takes its place. Where the mean cosine
        is negative, which contradicts the paper's geometry, t is 0: the formula would lead away
        from the experts, without bound as the cosine approaches -1 / (N - 1). A task vector of
        zeros has cosine 0 with all others.
    Scope: tensor.
    """
    factor = _ratio(weight, params=recipe.params) / weight.num_experts
    return by_block(weight, lambda block: block.base() + factor * total(block.task_vectors()))


def _ratio(weight: Weight, *, params: ModelStockParams) -> float:
    num_experts = weight.num_experts
    if num_experts == 1:
        return 1.0
    mean = _mean_cosine if params.angle == "cosine" else _cosine_of_mean_angle
    cosine = max(0.0, mean(weight, norms=_norms(weight)))
    return num_experts * cosine / ((num_experts - 1) * cosine + 1)


def _norms(weight: Weight) -> list[float]:
    """Returns each task vector's norm, or 1 for a vector of zeros, so that it can be divided."""
    squares = [0.0] * weight.num_experts
    for block in weight.blocks:
        for index, vector in enumerate(block.task_vectors()):
            squares[index] += float(_dot(vector, vector))
    return [math.sqrt(square) or 1.0 for square in squares]


def _mean_cosine(weight: Weight, *, norms: Sequence[float]) -> float:
    """Returns the mean cosine over pairs, from each vector's product with the sum before it.

    The norm of the sum of all unit vectors would give it too, but as a difference that loses its
    digits where experts are nearly orthogonal, and experts are.
    """
    cosines = 0.0
    for block in weight.blocks:
        before = torch.zeros(block.shape, device=block.device)
        for vector, norm in zip(block.task_vectors(), norms, strict=True):
            unit = vector.div_(norm)
            cosines += float(_dot(before, unit))
            before += unit
    return cosines / math.comb(weight.num_experts, 2)


def _cosine_of_mean_angle(weight: Weight, *, norms: Sequence[float]) -> float:
    """Returns the cosine of the mean angle over pairs; holds one block of every expert."""
    cosines = dict.fromkeys(combinations(range(weight.num_experts), 2), 0.0)
    for block in weight.blocks:
        units = [
            vector.div_(norm) for vector, norm in zip(block.task_vectors(), norms, strict=True)
        ]
        for first, second in cosines:
            cosines[first, second] += float(_dot(units[first], units[second]))
    angles = [math.acos(min(1.0, max(-1.0, cosine))) for cosine in cosines.values()]
    return math.cos(math.fsum(angles) / len(angles))


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dtype=torch.float64)

"""Spherical interpolation between two experts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from merge.weight import BLOCK_ENTRIES, Weight, by_block

if TYPE_CHECKING:
    from torch import Tensor

    from merge.parameters.linear import SlerpParams
    from merge.protocols import Recipe

PARALLEL = 0.9995
"""Absolute cosine above which the line replaces the arc, because the formula of the arc divides by
the sine. Between experts this similar the two differ by at most 1.3e-4 of the length; between
opposite experts no arc is unique. The bound is mergekit's and FusionBench's."""


def combine(weight: Weight, *, recipe: Recipe[SlerpParams, None]) -> Tensor:
    """Returns the point at fraction t of the arc from the first expert to the second.

    Shapes: that of the weight.
    Source: Shoemake 1985, section 3.3. The angle is taken between the flattened experts themselves,
        and its weights multiply the experts without normalizing them, as in mergekit. The base is
        not used. If an expert is all zeros there is no angle, and the line is taken.
    Scope: tensor.
    """
    first, second = _coefficients(_cosine(weight), t=recipe.params.t)

    def interpolate(block: Weight) -> Tensor:
        return (first * block.expert(0)).add_(second * block.expert(1))

    return by_block(weight.unchecked(), interpolate)


def _cosine(weight: Weight) -> float:
    """Returns the cosine in float64, or 1 if an expert is all zeros; checks for NaN and inf."""
    product, square_first, square_second = 0.0, 0.0, 0.0
    products = torch.empty(
        min(weight.num_entries, BLOCK_ENTRIES), dtype=torch.float64, device=weight.device
    )
    for block in weight.unchecked().blocks:
        first, second = (expert.to(torch.float64) for expert in block.experts())
        place = products[: block.num_entries]
        product += float(torch.mul(first, second, out=place).sum())
        square_first += float(torch.mul(first, first, out=place).sum())
        square_second += float(torch.mul(second, second, out=place).sum())
    if not math.isfinite(square_first + square_second):
        for _ in weight.experts():  # the read of the first bad expert raises
            pass
    norms = math.sqrt(square_first) * math.sqrt(square_second)
    return product / norms if norms > 0 else 1.0


def _coefficients(cosine: float, *, t: float) -> tuple[float, float]:
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)

"""Frank-Wolfe merging: step by step towards the expert that promises most for the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.combinations import combination, slopes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from merge.parameters.with_data import FrankWolfeParams
    from merge.probe import Probe
    from merge.protocols import Recipe
    from merge.weight import Weight

Coefficients = dict[str, Tensor]
"""By name of the weight, for each expert, float64."""


def learn(
    weights: Sequence[Weight], *, recipe: Recipe[FrankWolfeParams, None], probe: Probe
) -> Coefficients:
    """Returns the coefficients of the task vectors after some moves.

    A move theta + g (theta_i - theta) takes the coefficients c to (1 - g) c + g e_i, so that what
    is carried on is a number for each expert and weight: besides the model and its gradient nothing
    is held, however many experts there are to choose from.

    Source: Chen 2025, algorithm 1 (hard): the vertex that minimises the inner product with the
        gradient of the summed cross-entropy; not the cosine, which FusionBench takes. Vertices are
        the group's experts, and the start is none. All moves see the same images, so that they
        minimise one function.
    """
    params = recipe.params
    coefficients = {weight.name: _start(weight, params=params) for weight in weights}
    for iteration in range(params.iterations if weights else 0):
        gradient = probe.gradient(
            ((weight.name, _merge(weight, coefficients)) for weight in weights),
            loss="cross_entropy",
            batch=0,
            batch_size=params.images,
        )
        step = params.step_scale * 2 / (iteration + 2)
        towards = _vertices(weights, gradient=gradient, params=params)
        for name, expert in towards.items():
            coefficients[name] *= 1 - step
            coefficients[name][expert] += step
    return coefficients


def combine(weight: Weight, *, recipe: Recipe[FrankWolfeParams, Coefficients]) -> Tensor:
    """Returns the base plus the task vectors, each times the coefficient that the moves gave it.

    Shapes: that of the weight.
    Source: Chen 2025, algorithm 1.
    Scope: tensor, with coefficients found over the model.
    """
    return _merge(weight, recipe.statistics)


def _start(weight: Weight, *, params: FrankWolfeParams) -> Tensor:
    scaling = params.scaling if params.start == "task_arithmetic" else 1 / weight.num_experts
    return torch.full((weight.num_experts,), scaling, dtype=torch.float64)


def _merge(weight: Weight, coefficients: Mapping[str, Tensor]) -> Tensor:
    return combination(weight, coefficients=coefficients[weight.name].tolist())


def _vertices(
    weights: Sequence[Weight], *, gradient: Mapping[str, Tensor], params: FrankWolfeParams
) -> dict[str, int]:
    """Returns which expert each weight moves to; equals go to the first.

    The base's product with the gradient is the same for all experts, so that task vectors do. Where
    each tensor chooses, one without a gradient has no reason to move.
    """
    products = {
        weight.name: slopes(weight, gradient[weight.name])
        for weight in weights
        if weight.name in gradient
    }
    if params.granularity == "tensor" or not products:
        return {name: int(each.argmin()) for name, each in products.items()}
    chosen = int(torch.stack(list(products.values())).sum(dim=0).argmin())
    return {weight.name: chosen for weight in weights}

"""Frank-Wolfe merging: move step by step towards the expert that lowers the loss most."""

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
"""By name of the weight, one float64 coefficient per expert."""


def learn(
    weights: Sequence[Weight], *, recipe: Recipe[FrankWolfeParams, None], probe: Probe
) -> Coefficients:
    """Returns the coefficients of the task vectors after all moves.

    A move theta + g (theta_i - theta) changes the coefficients c to (1 - g) c + g e_i. The state of
    the search is therefore one number per expert and weight, and memory holds only the model and
    its gradient, however many experts there are.

    Source: Chen 2025, algorithm 1 (hard). A move goes to the vertex that minimises the inner
        product with the gradient of the summed cross-entropy; FusionBench takes the cosine instead.
        The vertices are the group's experts; the start is not one of them. All moves see the same
        images, so they minimise one function.
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
    """Returns the base plus the task vectors, each times its coefficient after all moves.

    Shapes: that of the weight.
    Source: Chen 2025, algorithm 1.
    Scope: tensor, with coefficients found over the model.
    """
    return _merge(weight, recipe.group_result)


def _start(weight: Weight, *, params: FrankWolfeParams) -> Tensor:
    scaling = params.scaling if params.start == "task_arithmetic" else 1 / weight.num_experts
    return torch.full((weight.num_experts,), scaling, dtype=torch.float64)


def _merge(weight: Weight, coefficients: Mapping[str, Tensor]) -> Tensor:
    return combination(weight, coefficients=coefficients[weight.name].tolist())


def _vertices(
    weights: Sequence[Weight], *, gradient: Mapping[str, Tensor], params: FrankWolfeParams
) -> dict[str, int]:
    """Returns the expert that each weight moves to; of equals, the first.

    The base's inner product with the gradient is the same for all experts, so task vectors can
    stand in for experts. Where each tensor chooses, a tensor without a gradient does not move.
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

"""AdaMerging: learn the task vectors' coefficients by minimising the entropy of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.combinations import VectorsOf, combination, slopes_of_all
from merge.sign_election import threshold, trim
from merge.weight import Weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from merge.parameters.with_data import AdaMergingParams
    from merge.probe import Probe
    from merge.protocols import Recipe

BETAS = (0.9, 0.999)
"""Adam's decay rates. Source: the paper's code, FusionBench."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The learned coefficients, and the task vectors that they apply to."""

    coefficients: Mapping[str, Sequence[float]]
    """By name of the weight, one per expert."""
    vectors_of: VectorsOf
    """Yields the task vectors, trimmed or not."""


def measure_expert(
    weights: Sequence[Weight], index: int, *, recipe: Recipe[AdaMergingParams, None]
) -> float | None:
    """Returns the least magnitude that an expert's trim keeps, or None without a trim."""
    density = recipe.params.trim_density
    if density == 1:
        return None
    return threshold(weights, index, density=density, vector_of=Weight.task_vector)


def learn(
    weights: Sequence[Weight], *, recipe: Recipe[AdaMergingParams, None], probe: Probe
) -> Learned | None:
    """Returns the coefficients after the steps of Adam on the summed entropy of the predictions.

    The gradient by a coefficient is the inner product of the gradient by the weights with the task
    vector. A step therefore reads every expert twice and holds one model and its gradient, whatever
    the number of experts.

    Source: Yang 2023, section 3.2. Adam runs in float64. As in the paper's code, a clamped
        coefficient has no gradient outside the bounds.
    """
    if not weights:
        return None
    params = recipe.params
    num_rows = len(weights) if params.level == "tensor" else 1
    free = torch.full((num_rows, weights[0].num_experts), params.initial, dtype=torch.float64)
    optimizer = torch.optim.Adam([free.requires_grad_()], lr=params.lr, betas=BETAS)
    for step in range(params.steps):
        learned = _learned(free, weights=weights, recipe=recipe)
        by_weight = slopes_of_all(
            weights,
            probe.gradient(
                ((weight.name, _merge(weight, learned)) for weight in weights),
                loss="entropy",
                batch=step,
                batch_size=params.batch_size,
            ),
            vectors_of=learned.vectors_of,
        )
        by_row = by_weight if params.level == "tensor" else by_weight.sum(dim=0, keepdim=True)
        free.grad = by_row * _has_gradient(free, params=params)
        optimizer.step()
    return _learned(free, weights=weights, recipe=recipe)


def combine(weight: Weight, *, recipe: Recipe[AdaMergingParams, Learned]) -> Tensor:
    """Returns the base plus the task vectors, each times its learned coefficient.

    Shapes: that of the weight.
    Source: Yang 2023, equations 3 and 4; with a trim, equation 5 (AdaMerging++).
    Scope: tensor, with coefficients learned over the model.
    """
    return _merge(weight, recipe.group_result)


def _merge(weight: Weight, learned: Learned) -> Tensor:
    coefficients = learned.coefficients[weight.name]
    return combination(weight, coefficients=coefficients, vectors_of=learned.vectors_of)


def _learned(
    free: Tensor, *, weights: Sequence[Weight], recipe: Recipe[AdaMergingParams, None]
) -> Learned:
    used = free.detach().clamp(0, 1) if recipe.params.clamp else free.detach()
    rows = used.expand(len(weights), -1).tolist()
    names = (weight.name for weight in weights)
    return Learned(coefficients=dict(zip(names, rows, strict=True)), vectors_of=_vectors_of(recipe))


def _has_gradient(free: Tensor, *, params: AdaMergingParams) -> Tensor:
    """Returns 1 where a coefficient has a gradient and 0 where the clamp removes it."""
    if not params.clamp:
        return torch.ones_like(free)
    return ((free >= 0) & (free <= 1)).to(free.dtype)


def _vectors_of(recipe: Recipe[AdaMergingParams, None]) -> VectorsOf:
    if recipe.params.trim_density == 1:
        return Weight.task_vectors
    return partial(_trimmed, thresholds=recipe.expert_results)


def _trimmed(block: Weight, *, thresholds: Sequence[float]) -> Iterator[Tensor]:
    vectors = zip(block.task_vectors(), thresholds, strict=True)
    return (trim(vector, least=least) for vector, least in vectors)

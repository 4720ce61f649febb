"""Fisher merging: average each entry, weighted by the experts' Fisher information."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.operators.average import mean
from merge.probe import expert_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from merge.parameters.with_data import FisherParams
    from merge.probe import Probe
    from merge.protocols import Recipe
    from merge.weight import Weight


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Running sums over the experts, by name of the weight."""

    weighted: dict[str, Tensor]
    """Sum of Fisher information times expert."""
    totals: dict[str, Tensor]
    """Sum of Fisher information."""


def learn(
    weights: Sequence[Weight], *, recipe: Recipe[FisherParams, None], probe: Probe
) -> dict[str, Tensor]:
    """Returns the merged weights that the model trains, by name.

    Experts are processed one after another. Memory holds the model and its gradient, one expert's
    Fisher information, and the two running sums.

    Source: Matena 2021, equations 4 and 5: gradients per example, with labels in expectation under
        the model. All experts have equal weight (the paper's lambda is 1). The floor is applied
        after scaling to norm 1, not before. It then means the same for an expert with certain
        predictions, whose Fisher information is small throughout, as for any other expert. Entries
        that no expert needs are averaged.
    """
    sums = _Sums(weighted={}, totals={})
    for index in range(weights[0].num_experts if weights else 0):
        _add_expert(sums, index, weights=weights, params=recipe.params, probe=probe)
    return {name: tensor.div_(sums.totals.pop(name)) for name, tensor in sums.weighted.items()}


def combine(weight: Weight, *, recipe: Recipe[FisherParams, Mapping[str, Tensor]]) -> Tensor:
    """Returns the mean of the experts weighted by their Fisher information.

    Shapes: that of the weight.
    Source: Matena 2021, equation 5. Weights that the model does not train are averaged.
    Scope: entry, with one factor per expert over the model.
    """
    merged = recipe.group_result.get(weight.name)
    return mean(weight) if merged is None else merged.clone()


def _add_expert(
    sums: _Sums, index: int, *, weights: Sequence[Weight], params: FisherParams, probe: Probe
) -> None:
    fisher = probe.squared_gradients(
        expert_tensors(weights, index),
        task=index,
        num_images=params.images,
        is_exact=params.expectation == "exact",
    )
    factor = 1 / _norm(fisher) if params.normalize else 1.0
    for weight in weights:
        if weight.name in fisher:
            importance = (fisher[weight.name].to(weight.device) * factor).clamp_(min=params.floor)
            _add(sums.weighted, weight.name, importance * weight.expert(index))
            _add(sums.totals, weight.name, importance)


def _norm(fisher: Mapping[str, Tensor]) -> float:
    squares = (float(each.square().sum(dtype=torch.float64)) for each in fisher.values())
    return math.sqrt(math.fsum(squares)) or 1.0


def _add(sums: dict[str, Tensor], name: str, term: Tensor) -> None:
    if name in sums:
        sums[name] += term
    else:
        sums[name] = term

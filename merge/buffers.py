"""Merges the tensors that are no weights: running statistics and integer buffers.

A policy decides how running statistics are merged, not the method: a trimmed or extrapolated
variance can become negative.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.weight import State, Weight, total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from merge.catalogue import BatchNormPolicy

_MEAN, _VARIANCE = "running_mean", "running_var"


def is_statistic(name: str, *, state: State) -> bool:
    """Returns whether a tensor is the running mean or variance of a layer that has both."""
    pair = (_MEAN, _VARIANCE)
    return _last(name) in pair and all(_sibling(name, last=each) in state for each in pair)


def is_variance(name: str, *, state: State) -> bool:
    """Returns whether a tensor is the running variance of a layer that has both."""
    return _last(name) == _VARIANCE and is_statistic(name, state=state)


def merge_statistic(weight: Weight, *, policy: BatchNormPolicy) -> Tensor:
    """Returns a merged running statistic in float32.

    | policy | running_mean | running_var |
    | --- | --- | --- |
    | average | mean of the means | mean of the variances |
    | pooled | mean of the means | mean of the variances + variance (1/N) of the means |
    | base | the base's | the base's |
    | recalibrate | as average; the caller re-estimates it | as average |
    | per_task | as average; the caller swaps in each task's own | as average |

    Shapes: (channels,).
    Source: average is the seed study's rule; pooled is the law of total variance for experts that
        saw equally many images.
    Scope: tensor; for pooled also the mean of the same layer.
    """
    return _POLICIES[policy](weight)


def merge_integers(weight: Weight) -> Tensor:
    """Returns the entrywise maximum over the experts of an integer or bool tensor.

    The policy does not apply. Counters differ between experts with different numbers of steps, and
    the maximum is one of them. Tables of indices are equal in all experts and stay equal.
    """
    return reduce(torch.maximum, (state[weight.name] for state in weight.expert_states)).clone()


def _average(weight: Weight) -> Tensor:
    return weight.sum_of_experts() / weight.num_experts


def _pooled(weight: Weight) -> Tensor:
    if _last(weight.name) == _MEAN:
        return _average(weight)
    means = replace(weight, name=_sibling(weight.name, last=_MEAN))
    centre = _average(means)
    squares = ((mean - centre).square() for mean in means.experts())
    return _average(weight) + total(squares) / weight.num_experts


def _of_base(weight: Weight) -> Tensor:
    return weight.base().clone()


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _sibling(name: str, *, last: str) -> str:
    prefix, dot, _ = name.rpartition(".")
    return f"{prefix}{dot}{last}"


_POLICIES: Mapping[BatchNormPolicy, Callable[[Weight], Tensor]] = {
    "average": _average,
    "pooled": _pooled,
    "base": _of_base,
    "recalibrate": _average,
    "per_task": _average,
}

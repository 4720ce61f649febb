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

_MEAN, _VARIANCES = "mean", ("var", "variance")
_MOVING_FIRST, _MOVING_LAST = ("running", "moving", "ema"), ("ema", "avg")
_COUNTER = "num_batches_tracked"


def is_counter(weight: Weight) -> bool:
    """Returns whether a tensor is an integer, a bool, or a float that counts batches.

    Tools that convert all tensors of a file also make floats of the counters.
    """
    return not weight.dtype.is_floating_point or _last(weight.name) == _COUNTER


def is_statistic(name: str, *, state: State) -> bool:
    """Returns whether a tensor is a moving average, or the mean or variance of a normalization.

    `running_mean` and `running_var` of torch, `moving_variance` of Keras, `w_avg` and
    `magnitude_ema` are moving averages, whatever stands beside them: some normalizations keep a
    variance without a mean. A tensor called `mean` or `variance`, as in Flax and Paddle, is a
    statistic if the layer has both.
    """
    words = _words(name)
    if words[0] in _MOVING_FIRST or words[-1] in _MOVING_LAST:
        return True
    return is_variance(name, state=state) or (
        words == [_MEAN] and any(_sibling(name, word=each) in state for each in _VARIANCES)
    )


def is_variance(name: str, *, state: State) -> bool:
    """Returns whether a tensor is the running variance of a normalization."""
    words = _words(name)
    if words[-1] not in _VARIANCES:
        return False
    return words[0] in _MOVING_FIRST or (len(words) == 1 and _sibling(name, word=_MEAN) in state)


def merge_statistic(weight: Weight, *, policy: BatchNormPolicy) -> Tensor:
    """Returns a merged running statistic in float32.

    | policy | running_mean | running_var |
    | --- | --- | --- |
    | average | mean of the means | mean of the variances |
    | pooled | mean of the means | mean of the variances + variance (1/N) of the means |
    | base | the base's | the base's |
    | recalibrate | as average; the caller re-estimates it | as average |
    | per_task | as average; the caller swaps in each task's own | as average |

    A moving average of another kind is treated like a mean, and so is a variance without a mean.

    Shapes: (channels,).
    Source: average is the seed study's rule; pooled is the law of total variance for experts that
        saw equally many images.
    Scope: tensor; for pooled also the mean of the same layer.
    """
    return _POLICIES[policy](weight)


def merge_counters(weight: Weight) -> Tensor:
    """Returns the entrywise maximum over the experts of counters, integers or bools.

    The policy does not apply. Counters differ between experts with different numbers of steps, and
    the maximum is one of them. Tables of indices are equal in all experts and stay equal.
    """
    largest = reduce(torch.maximum, (state[weight.name] for state in weight.expert_states))
    return largest.to(weight.dtype, copy=True)


def _average(weight: Weight) -> Tensor:
    return weight.sum_of_experts() / weight.num_experts


def _pooled(weight: Weight) -> Tensor:
    mean = _sibling(weight.name, word=_MEAN)
    if not is_variance(weight.name, state=weight.base_state) or mean not in weight.base_state:
        return _average(weight)
    means = replace(weight, name=mean)
    centre = _average(means)
    squares = ((mean - centre).square() for mean in means.experts())
    return _average(weight) + total(squares) / weight.num_experts


def _of_base(weight: Weight) -> Tensor:
    return weight.base().clone()


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _words(name: str) -> list[str]:
    """Returns the words of a tensor's name inside its layer: `running` and `var`."""
    return _last(name).strip("_").split("_")


def _sibling(name: str, *, word: str) -> str:
    """Returns the name with another last word: `bn.running_mean` for `bn.running_var`."""
    last = _words(name)[-1]
    return f"{name.removesuffix(last)}{word}"


_POLICIES: Mapping[BatchNormPolicy, Callable[[Weight], Tensor]] = {
    "average": _average,
    "pooled": _pooled,
    "base": _of_base,
    "recalibrate": _average,
    "per_task": _average,
}

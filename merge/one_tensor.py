"""Merges one tensor: a weight by the method, a running statistic by its policy, or an integer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from merge.buffers import is_counter, is_statistic, is_variance, merge_counters, merge_statistic
from merge.errors import InvalidStatisticsError, NonFiniteMergeError
from merge.outliers import outlier_of
from merge.weight import Weight, greatest_magnitude

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merge.catalogue import BatchNormPolicy
    from merge.outliers import Outlier


def merge_one(
    weight: Weight,
    *,
    combine: Callable[[Weight], Tensor],
    batch_norm: BatchNormPolicy,
    method: str,
    on_outlier: Callable[[Outlier], None],
) -> Tensor:
    """Merges one tensor, checks the result and returns it in the dtype of the merged tensor.

    Args:
        weight: A whole tensor.
        combine: The method's function, for weights.
        batch_norm: The policy for running statistics.
        method: Name of the method, for errors.
        on_outlier: Is told of a result far beyond the base and the experts.

    Shapes: that of the weight.

    Raises:
        NonFiniteInputError: The base or an expert holds NaN or inf.
        NonFiniteMergeError: The result holds NaN or inf.
        InvalidStatisticsError: The result is a running variance and negative.
    """
    if is_counter(weight):
        counter = merge_counters(weight)
        if counter.is_floating_point():
            check_finite(counter, name=weight.name, method=method)
        return counter
    if weight.num_entries == 0:
        return weight.base().to(weight.dtype)
    if is_for_method(weight):
        merged = combine(weight).detach()  # a user's method may have learned it
    else:
        merged = merge_statistic(weight, policy=batch_norm)
    merged = merged.to(weight.dtype)
    greatest = check_finite(merged, name=weight.name, method=method)
    _check_variance(merged, weight=weight, method=method)
    outlier = outlier_of(weight, greatest=greatest, method=method)
    if outlier is not None:
        on_outlier(outlier)
    return merged


def is_for_method(weight: Weight) -> bool:
    """Returns whether a tensor is a weight: floats, not empty, no running statistic or counter."""
    if is_counter(weight) or weight.num_entries == 0:
        return False
    return not is_statistic(weight.name, state=weight.base_state)


def check_finite(merged: Tensor, *, name: str, method: str) -> float:
    """Checks a merged tensor for NaN and inf, and returns its greatest magnitude.

    Raises:
        NonFiniteMergeError: The tensor holds NaN or inf.
    """
    greatest = greatest_magnitude(merged)
    if not math.isfinite(greatest):
        wider = "; --dtype float32 holds larger numbers" if merged.dtype == torch.float16 else ""
        raise NonFiniteMergeError(
            f"{name} merged by {method} holds NaN or inf as "
            f"{str(merged.dtype).removeprefix('torch.')}, though all inputs are finite{wider}"
        )
    return greatest


def _check_variance(merged: Tensor, *, weight: Weight, method: str) -> None:
    # A variance of zero is valid: dead channels have it (130 of EfficientNet-Lite0's 21,008 as
    # published), and the layer's eps keeps the normalization finite.
    if is_variance(weight.name, state=weight.base_state) and bool((merged < 0).any()):
        owners = [weight.names.base, *map(weight.names.expert, range(weight.num_experts))]
        variances = [weight.base(), *weight.experts()]
        negative = [
            owner for owner, each in zip(owners, variances, strict=True) if bool((each < 0).any())
        ]
        raise InvalidStatisticsError(
            f"{weight.name} merged with {method} has a negative variance, {float(merged.min()):g}; "
            f"every policy only averages, and it is negative in {', '.join(negative)}"
        )

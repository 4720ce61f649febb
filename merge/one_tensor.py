"""Merges one tensor: a weight by the method, a running statistic by its policy, or an integer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.buffers import is_statistic, is_variance, merge_integers, merge_statistic
from merge.errors import InvalidStatisticsError, NonFiniteMergeError
from merge.weight import Weight, is_finite

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merge.catalogue import BatchNormPolicy


def merge_one(
    weight: Weight,
    *,
    combine: Callable[[Weight], Tensor],
    batch_norm: BatchNormPolicy,
    method: str,
) -> Tensor:
    """Merges one tensor, checks the result and returns it in the base's dtype.

    Args:
        weight: A whole tensor.
        combine: The method's function, for weights.
        batch_norm: The policy for running statistics.
        method: Name of the method, for errors.

    Shapes: that of the weight.

    Raises:
        NonFiniteInputError: The base or an expert holds NaN or inf.
        NonFiniteMergeError: The result holds NaN or inf.
        InvalidStatisticsError: The result is a running variance and negative.
    """
    if not weight.dtype.is_floating_point:
        return merge_integers(weight)
    if weight.num_entries == 0:
        return weight.base().to(weight.dtype)
    if is_for_method(weight):
        merged = combine(weight)
    else:
        merged = merge_statistic(weight, policy=batch_norm)
    merged = merged.to(weight.dtype)
    _check(merged, weight=weight, method=method)
    return merged


def is_for_method(weight: Weight) -> bool:
    """Returns whether a tensor is a weight: floats, not empty, and no running statistic."""
    if not weight.dtype.is_floating_point or weight.num_entries == 0:
        return False
    return not is_statistic(weight.name, state=weight.base_state)


def check_finite(merged: Tensor, *, name: str, method: str) -> None:
    """Checks a merged tensor for NaN and inf.

    Raises:
        NonFiniteMergeError: The tensor holds NaN or inf.
    """
    if not is_finite(merged):
        raise NonFiniteMergeError(
            f"{name} merged by {method} holds NaN or inf as {merged.dtype}, "
            "though all inputs are finite"
        )


def _check(merged: Tensor, *, weight: Weight, method: str) -> None:
    check_finite(merged, name=weight.name, method=method)
    # A variance of zero is valid: dead channels have it (130 of EfficientNet-Lite0's 21,008 as
    # published), and the layer's eps keeps the normalization finite.
    if is_variance(weight.name, state=weight.base_state) and bool((merged < 0).any()):
        raise InvalidStatisticsError(
            f"{weight.name} merged with {method} has a negative variance, {float(merged.min()):g}; "
            "every policy only averages, so the base or an expert has a negative variance"
        )

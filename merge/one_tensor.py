"""One merged tensor: by the method, by the policy for running statistics, or by the maximum."""

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
    """Returns a merged tensor in the base's dtype, checked.

    Args:
        weight: A whole tensor.
        combine: The method, for what is a weight.
        batch_norm: The policy, for what is a running statistic.
        method: Its name, for errors.

    Shapes: that of the weight.

    Raises:
        NonFiniteInputError, NonFiniteMergeError, InvalidStatisticsError: see `merge.errors`.
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
    """Returns whether a tensor is a weight: floats that are no running statistic, one at least."""
    if not weight.dtype.is_floating_point or weight.num_entries == 0:
        return False
    return not is_statistic(weight.name, state=weight.base_state)


def check_finite(merged: Tensor, *, name: str, method: str) -> None:
    """Checks a merged tensor.

    Raises:
        NonFiniteMergeError: It holds NaN or inf.
    """
    if not is_finite(merged):
        raise NonFiniteMergeError(
            f"{name} merged by {method} holds NaN or inf as {merged.dtype}, "
            "though all inputs are finite"
        )


def _check(merged: Tensor, *, weight: Weight, method: str) -> None:
    check_finite(merged, name=weight.name, method=method)
    # Zero is no error: a dead channel has it (130 of EfficientNet-Lite0's 21,008 as published), and
    # the layer's eps keeps the normalization finite.
    if is_variance(weight.name, state=weight.base_state) and bool((merged < 0).any()):
        raise InvalidStatisticsError(
            f"{weight.name} merged with {method} has a negative variance, {float(merged.min()):g}: "
            "since every policy only averages, the base or an expert holds one"
        )

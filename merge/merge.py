"""The merge itself: base and experts in, one merged tensor after another out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.buffers import is_statistic, is_variance, merge_integers, merge_statistic
from merge.errors import InvalidStatisticsError, MergeError, NonFiniteMergeError
from merge.matching import check_match
from merge.method import Method, Recipe
from merge.methods import METHODS
from merge.params import BatchNormPolicy, MethodParams, method_of
from merge.weight import State, Weight, is_finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


def merge(
    base: State,
    experts: Sequence[State],
    *,
    params: MethodParams,
    batch_norm: BatchNormPolicy = "average",
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """Checks the inputs, then yields each name and merged tensor in the base's order and dtypes.

    Arithmetic is in float32 whatever the dtype. At any time a few copies of one tensor are alive,
    so peak memory grows neither with the number of experts nor with that of tensors; states may be
    lazy views of files and are read more than once. The bits depend on the order of the experts, by
    rounding and by DARE's masks: callers that want the same bits pass the same order.

    Shapes: as in the base.

    Raises:
        MergeError: there is no expert.
        MismatchError: names, shapes or dtypes differ; this and the first come from the call.
        NonFiniteInputError: the base or an expert holds NaN or inf; this and the rest come from
            iterating, before the tensor concerned is yielded.
        NonFiniteMergeError: a merged tensor does, in the base's dtype.
        InvalidStatisticsError: a merged running variance is negative.
    Scope: weights by the method, running statistics by `batch_norm`, integers by their maximum.
    """
    if not experts:
        raise MergeError("a merge needs at least one expert")
    check_match(base, experts=experts)
    weights = [Weight(name=name, base_state=base, expert_states=experts) for name in base]
    return _stream(weights, params=params, batch_norm=batch_norm, seed=seed)


def _stream(
    weights: Sequence[Weight], *, params: MethodParams, batch_norm: BatchNormPolicy, seed: int
) -> Iterator[tuple[str, Tensor]]:
    name_of_method = method_of(params)
    method = METHODS[name_of_method]
    recipe = _recipe(method, weights=weights, params=params, seed=seed)
    for weight in weights:
        merged = _merge_one(weight, method=method, recipe=recipe, batch_norm=batch_norm)
        _check(merged, weight=weight, method=name_of_method)
        yield weight.name, merged


def _recipe(
    method: Method, *, weights: Sequence[Weight], params: MethodParams, seed: int
) -> Recipe[MethodParams, object]:
    if method.statistics is None:
        return Recipe(params=params, seed=seed, statistics=None)
    measured = method.statistics(
        [each for each in weights if _is_for_method(each)],
        recipe=Recipe(params=params, seed=seed, statistics=None),
    )
    return Recipe(params=params, seed=seed, statistics=measured)


def _merge_one(
    weight: Weight,
    *,
    method: Method,
    recipe: Recipe[MethodParams, object],
    batch_norm: BatchNormPolicy,
) -> Tensor:
    if not weight.dtype.is_floating_point:
        return merge_integers(weight)
    if weight.num_entries == 0:
        return weight.base().to(weight.dtype)
    if _is_for_method(weight):
        merged = method.combine(weight, recipe=recipe)
    else:
        merged = merge_statistic(weight, policy=batch_norm)
    return merged.to(weight.dtype)


def _is_for_method(weight: Weight) -> bool:
    if not weight.dtype.is_floating_point or weight.num_entries == 0:
        return False
    return not is_statistic(weight.name, state=weight.base_state)


def _check(merged: Tensor, *, weight: Weight, method: str) -> None:
    if not merged.is_floating_point() or merged.numel() == 0:
        return
    if not is_finite(merged):
        raise NonFiniteMergeError(
            f"{weight.name} merged by {method} holds NaN or inf as {merged.dtype}, "
            "though all inputs are finite"
        )
    # Zero is no error: a dead channel has it (130 of EfficientNet-Lite0's 21,008 as published), and
    # the layer's eps keeps the normalization finite.
    if is_variance(weight.name, state=weight.base_state) and bool((merged < 0).any()):
        raise InvalidStatisticsError(
            f"{weight.name} merged with {method} has a negative variance, {float(merged.min()):g}: "
            "since every policy only averages, the base or an expert holds one"
        )

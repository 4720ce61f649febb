"""Merges a base and experts into one merged tensor after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from merge.catalogue import BatchNormPolicy, lacking_data, method_of, wrong_number, wrong_task
from merge.deferred import write_deferred
from merge.errors import UNNAMED, MergeError, Names
from merge.inputs.codes import check_mergeable
from merge.inputs.factors import check_factors
from merge.inputs.matching import check_match
from merge.one_tensor import is_for_method, merge_one
from merge.outliers import Outlier, log_outlier
from merge.protocols import Method, Recipe
from merge.table import functions_of
from merge.threads import in_order
from merge.weight import BLOCK_ENTRIES, CPU, State, Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import Tensor

    from merge.parameters.method_params import MethodParams
    from merge.probe import Probe

BATCH_TENSORS = 64
"""Most tensors that a thread takes at a time, so that a model of small tensors is shared too."""


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Everything that decides a merge besides the models, and how to compute it."""

    params: MethodParams
    """The method's parameters; their class determines the method."""
    batch_norm: BatchNormPolicy = "average"
    """Policy for running statistics."""
    seed: int = 0
    """Seed of methods that draw random numbers."""
    num_threads: int = 1
    """Threads, each of which merges one tensor at a time. The result's bits do not depend on it."""
    may_defer: bool = False
    """Whether a method may write entries into tensors after they were yielded, when the last tensor
    has been yielded. This is faster for a caller that keeps all tensors until the iteration ends.
    The result's bits do not depend on it."""
    device: torch.device = CPU
    """Where to compute; merged tensors stay there."""
    probe: Probe | None = None
    """The model and the data, for methods that read data."""
    dtype: torch.dtype | None = None
    """The dtype of merged floats, whatever those of base and experts; None for the base's, which
    the experts must then share."""
    on_outlier: Callable[[Outlier], None] = log_outlier
    """A function that is told of merged tensors far beyond the base and the experts; it may be
    called on several threads."""

    @property
    def method(self) -> Method:
        """The functions of the method."""
        return functions_of(self.params)

    def merge_one(self, weight: Weight, *, combine: Callable[[Weight], Tensor]) -> Tensor:
        """Returns one merged tensor; `combine` merges it if it is a weight."""
        return merge_one(
            weight,
            combine=combine,
            batch_norm=self.batch_norm,
            method=method_of(self.params),
            on_outlier=self.on_outlier,
        )


def merge(
    base: State, experts: Sequence[State], *, options: MergeOptions, names: Names = UNNAMED
) -> Iterator[tuple[str, Tensor]]:
    """Checks the inputs, then yields each name and merged tensor in the base's order and dtypes.

    This is `merge_groups` with one group of all experts.
    """
    groups = [range(len(experts))]
    merged = merge_groups(base, experts, groups=groups, options=options, names=names)
    return ((name, tensor) for name, (tensor,) in merged)


def merge_groups(
    base: State,
    experts: Sequence[State],
    *,
    groups: Sequence[Sequence[int]],
    options: MergeOptions,
    names: Names = UNNAMED,
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Checks the inputs, then yields each name with its merged tensor of every group.

    Arithmetic is in float32 whatever the dtype. Each thread holds a few copies of one tensor, and
    its merged tensors, so peak memory grows neither with the number of experts nor with the number
    of tensors. States may be lazy views of files. Each tensor of an expert is used for all groups
    while it is in memory, so files are read from disk once per pass, however many groups there are.
    The docstrings of methods say which of them hold all experts of a tensor at once.

    The bits of a group's result depend on the order of its experts, by rounding and by DARE's
    masks, and not on the other groups.

    Args:
        base: The model that the experts were fine-tuned from.
        experts: The pool of experts.
        groups: For each merge, the positions of its experts in the pool, in the order to sum them.
        options: How to merge.
        names: Names of the base and of the pool's experts, for errors.

    Shapes: as in the base.

    Raises:
        MergeError: There is no group, a group has no expert or a number of experts that the method
            or its parameters do not accept, or the method lacks its data.
        MismatchError: Names, shapes or dtypes differ.
        UnmergeableError: Tensors hold codes of quantised weights, no real numbers, or factors of
            weights. This error and the two before are raised by the call itself.
        NonFiniteInputError: The base or an expert holds NaN or inf. This error and the following
            are raised by the iteration, before the affected tensor is yielded.
        NonFiniteMergeError: A merged tensor holds NaN or inf, in the base's dtype.
        InvalidStatisticsError: A merged running variance is negative.
    Scope: weights by the method, running statistics by `batch_norm`, integers by their maximum.
    """
    _check_groups(groups, options=options)
    pool = _pool(base, experts, options=options, names=names)
    return _stream_groups(pool, groups=groups, options=options)


def merge_tasks(
    base: State,
    experts: Sequence[State],
    *,
    tasks: Sequence[int],
    options: MergeOptions,
    names: Names = UNNAMED,
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Checks the inputs, then yields each name with its tensor in the model of every given task.

    This is for methods that keep modules of each task (`Method.combine_for_task`), on one group of
    all experts. The models of all given tasks are made at once, and the experts are measured once
    per call.

    Args:
        base: The model that the experts were fine-tuned from.
        experts: The group.
        tasks: Positions of the experts for whose tasks models are made.
        options: How to merge.
        names: Names of the base and the experts, for errors.

    Shapes: as in the base.

    Raises:
        MergeError: As in `merge_groups`, or the method makes one model for all tasks.
    """
    _check_groups([range(len(experts))], options=options)
    fault = wrong_task(options.params, has_task=True)
    if fault is not None:
        raise MergeError(fault)
    pool = _pool(base, experts, options=options, names=names)
    return _stream_tasks(pool, tasks=tasks, options=options)


def open_merge(
    base: State, experts: Sequence[State], *, options: MergeOptions, names: Names = UNNAMED
) -> tuple[list[Weight], Recipe[MethodParams, Any]]:
    """Checks the inputs of one group, and returns its weights and the method's recipe for them.

    Raises:
        MergeError: As in `merge_groups`.
    """
    everyone = range(len(experts))
    _check_groups([everyone], options=options)
    pool = _pool(base, experts, options=options, names=names)
    measured = _measure_experts(pool, groups=[everyone], options=options)
    recipe = _recipe(pool, expert_results=list(measured.values()), options=options)
    return [weight for weight in pool if is_for_method(weight)], recipe


def coverage(base: State, *, params: MethodParams) -> float:
    """Returns the share of weight entries on which a method does more than average.

    Spectral methods, for example, act on matrices and kernels and average all vectors.

    Units: fraction in [0, 1]; 1 for a state without weights.
    """
    covers = functions_of(params).covers
    weights = [Weight(name=name, base_state=base, expert_states=()) for name in base]
    counted = [(each.num_entries, covers(each)) for each in weights if is_for_method(each)]
    num_entries = sum(num for num, _ in counted)
    return sum(num for num, is_covered in counted if is_covered) / num_entries if counted else 1.0


def _check_groups(groups: Sequence[Sequence[int]], *, options: MergeOptions) -> None:
    if not groups or not all(groups):
        raise MergeError("a merge needs at least one expert")
    for group in groups:
        fault = wrong_number(options.params, num_experts=len(group))
        if fault is not None:
            raise MergeError(fault)
    if options.method.learn is not None and options.probe is None:
        raise MergeError(lacking_data(options.params))
    if options.probe is not None and len(groups) > 1:
        raise MergeError(
            f"a method that reads data merges one group at a time, not {len(groups)} groups"
        )


def _pool(
    base: State, experts: Sequence[State], *, options: MergeOptions, names: Names
) -> list[Weight]:
    check_mergeable(base, experts=experts, names=names)
    check_match(base, experts=experts, names=names, may_mix_floats=options.dtype is not None)
    check_factors(base, experts=experts, names=names)
    return [
        Weight(
            name=name,
            base_state=base,
            expert_states=experts,
            device=options.device,
            names=names,
            float_dtype=options.dtype,
        )
        for name in base
    ]


def _stream_groups(
    pool: Sequence[Weight], *, groups: Sequence[Sequence[int]], options: MergeOptions
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    measured = _measure_experts(pool, groups=groups, options=options)
    recipes = [
        _recipe(
            [weight.of_experts(group) for weight in pool],
            expert_results=[measured[index] for index in group],
            options=options,
        )
        for group in groups
    ]

    def merge_in_groups(weight: Weight) -> tuple[Tensor, ...]:
        return tuple(
            options.merge_one(
                weight.of_experts(group), combine=partial(options.method.combine, recipe=recipe)
            )
            for group, recipe in zip(groups, recipes, strict=True)
        )

    merged = _stream(pool, merge_in_groups, num_threads=options.num_threads)
    deferred_entries = options.method.deferred_entries
    if options.may_defer and deferred_entries is not None:
        merged = write_deferred(
            merged,
            deferred_by_group=[partial(deferred_entries, recipe=recipe) for recipe in recipes],
            method=method_of(options.params),
        )
    yield from merged


def _stream_tasks(
    pool: Sequence[Weight], *, tasks: Sequence[int], options: MergeOptions
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    everyone = range(pool[0].num_experts) if pool else range(0)
    measured = _measure_experts(pool, groups=[everyone], options=options)
    recipe = _recipe(pool, expert_results=list(measured.values()), options=options)
    combine = options.method.combine_for_task
    assert combine is not None

    def merge_for_tasks(weight: Weight) -> tuple[Tensor, ...]:
        return tuple(
            options.merge_one(weight, combine=partial(combine, task=task, recipe=recipe))
            for task in tasks
        )

    yield from _stream(pool, merge_for_tasks, num_threads=options.num_threads)


def _stream(
    pool: Sequence[Weight], function: Callable[[Weight], tuple[Tensor, ...]], *, num_threads: int
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Yields names and merged tensors in order; each thread takes a few tensors at a time."""
    if num_threads == 1:
        yield from ((weight.name, function(weight)) for weight in pool)
        return

    def merge_batch(weights: Sequence[Weight]) -> list[tuple[str, tuple[Tensor, ...]]]:
        return [(weight.name, function(weight)) for weight in weights]

    for batch in in_order(merge_batch, _batches(pool), num_threads=num_threads):
        yield from batch


def _batches(pool: Sequence[Weight]) -> Iterator[list[Weight]]:
    """Yields runs of tensors large enough for a thread; most tensors are biases and scales."""
    batch: list[Weight] = []
    num_entries = 0
    for weight in pool:
        batch.append(weight)
        num_entries += weight.num_entries
        if num_entries >= BLOCK_ENTRIES or len(batch) == BATCH_TENSORS:
            yield batch
            batch, num_entries = [], 0
    if batch:
        yield batch


def _measure_experts(
    pool: Sequence[Weight], *, groups: Sequence[Sequence[int]], options: MergeOptions
) -> dict[int, object]:
    """Measures every expert of a group once, however many groups it is in."""
    wanted = sorted({index for group in groups for index in group})
    measure = options.method.measure_expert
    weights = [weight for weight in pool if is_for_method(weight)]
    if measure is None or not weights:
        return dict.fromkeys(wanted)
    recipe = Recipe(params=options.params, seed=options.seed, group_result=None)
    results = in_order(
        lambda index: measure(weights, index, recipe=recipe),
        wanted,
        num_threads=options.num_threads,
    )
    return dict(zip(wanted, results, strict=True))


def _recipe(
    weights: Sequence[Weight], *, expert_results: Sequence[object], options: MergeOptions
) -> Recipe[MethodParams, Any]:
    recipe: Recipe[MethodParams, Any] = Recipe(
        params=options.params,
        seed=options.seed,
        expert_results=expert_results,
        group_result=None,
        may_defer=options.may_defer,
    )
    method = options.method
    seen = [weight for weight in weights if is_for_method(weight)]
    if method.learn is not None and options.probe is not None:
        return replace(recipe, group_result=method.learn(seen, recipe=recipe, probe=options.probe))
    if method.measure_group is not None:
        return replace(recipe, group_result=method.measure_group(seen, recipe=recipe))
    return recipe

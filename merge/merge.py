"""The merge itself: base and experts in, one merged tensor after another out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from merge.catalogue import BatchNormPolicy, method_of, num_experts_of
from merge.errors import MergeError
from merge.late import settled
from merge.matching import check_match
from merge.one_tensor import is_for_method, merge_one
from merge.protocols import Method, Recipe
from merge.table import METHODS
from merge.threads import in_order
from merge.weight import BLOCK_ENTRIES, CPU, State, Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from torch import Tensor

    from merge.parameters.method_params import MethodParams
    from merge.probe import Probe


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """How to merge, besides the models."""

    params: MethodParams
    """The method's, whose type names it."""
    batch_norm: BatchNormPolicy = "average"
    """What becomes of running statistics."""
    seed: int = 0
    """Of methods that draw random numbers."""
    num_threads: int = 1
    """Tensors worked on at once; no bit of the result depends on it."""
    settles_late: bool = False
    """Whether entries of yielded tensors may still be written when the last one has been yielded,
    for whoever keeps them all until the iteration ends; no bit of the result depends on it."""
    device: torch.device = CPU
    """Where to compute; merged tensors are left there."""
    probe: Probe | None = None
    """The model and the data, for methods that read any."""

    @property
    def method(self) -> Method:
        """The method's line in the table."""
        return METHODS[method_of(self.params)]

    def merge_one(self, weight: Weight, *, combine: Callable[[Weight], Tensor]) -> Tensor:
        """Returns one merged tensor."""
        return merge_one(
            weight, combine=combine, batch_norm=self.batch_norm, method=method_of(self.params)
        )


def merge(
    base: State, experts: Sequence[State], *, options: MergeOptions
) -> Iterator[tuple[str, Tensor]]:
    """Checks the inputs, then yields each name and merged tensor in the base's order and dtypes.

    This is `merge_groups` with one group of all experts.
    """
    merged = merge_groups(base, experts, groups=[range(len(experts))], options=options)
    return ((name, tensor) for name, (tensor,) in merged)


def merge_groups(
    base: State,
    experts: Sequence[State],
    *,
    groups: Sequence[Sequence[int]],
    options: MergeOptions,
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Checks the inputs, then yields each name and its merged tensor in every group.

    Arithmetic is in float32 whatever the dtype. At any time a few copies of one tensor a thread are
    alive, and its merged ones, so peak memory grows neither with the number of experts nor with
    that of tensors; states may be lazy views of files. Each tensor of an expert is read for all
    groups in turn while it is in memory: files are read from disk once a pass, however many groups
    there are. Methods that need all experts of a tensor at once say so.

    The bits depend on the order of the experts in a group, by rounding and by DARE's masks, and not
    on the other groups.

    Args:
        base: What the experts started from.
        experts: The pool.
        groups: For each merge the experts' positions in the pool, in the order to take them.
        options: How to merge.

    Shapes: as in the base.

    Raises:
        MergeError: there is no group, a group has no expert or not as many as the method or its
            parameters are for, or the method lacks its data.
        MismatchError: names, shapes or dtypes differ; this and the first come from the call.
        NonFiniteInputError: the base or an expert holds NaN or inf; this and the rest come from
            iterating, before the tensor concerned is yielded.
        NonFiniteMergeError: a merged tensor does, in the base's dtype.
        InvalidStatisticsError: a merged running variance is negative.
    Scope: weights by the method, running statistics by `batch_norm`, integers by their maximum.
    """
    _check_groups(groups, options=options)
    pool = _pool(base, experts, options=options)
    return _stream_groups(pool, groups=groups, options=options)


def merge_tasks(
    base: State, experts: Sequence[State], *, tasks: Sequence[int], options: MergeOptions
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Checks the inputs, then yields each name and its tensor in the model of each of some tasks.

    For methods that keep modules of each task (`Method.combine_for_task`), on one group of all
    experts. As many models are made at once as tasks are named, and what has to be measured of the
    experts is measured once a call.

    Args:
        base: What the experts started from.
        experts: The group.
        tasks: Positions of experts, whose tasks the models are for.
        options: How to merge.

    Shapes: as in the base.

    Raises:
        MergeError: as `merge_groups`, or the method has one model for all tasks.
    """
    _check_groups([range(len(experts))], options=options)
    if options.method.combine_for_task is None:
        raise MergeError(f"{method_of(options.params)} has one model for all tasks")
    return _stream_tasks(_pool(base, experts, options=options), tasks=tasks, options=options)


def coverage(base: State, *, params: MethodParams) -> float:
    """Returns the share of weight entries on which a method is more than an average.

    Spectral methods act on matrices and kernels, for example, and average all vectors.

    Units: fraction in [0, 1]; 1 for a state without weights.
    """
    covers = METHODS[method_of(params)].covers
    weights = [Weight(name=name, base_state=base, expert_states=()) for name in base]
    counted = [(each.num_entries, covers(each)) for each in weights if is_for_method(each)]
    num_entries = sum(num for num, _ in counted)
    return sum(num for num, is_covered in counted if is_covered) / num_entries if counted else 1.0


def _check_groups(groups: Sequence[Sequence[int]], *, options: MergeOptions) -> None:
    if not groups or not all(groups):
        raise MergeError("a merge needs at least one expert")
    needed = num_experts_of(options.params)
    wrong = [len(group) for group in groups if len(group) != needed]
    if needed is not None and wrong:
        raise MergeError(f"{options.params} merges exactly {needed} experts, not {wrong[0]}")
    if options.method.learn is not None and options.probe is None:
        raise MergeError(f"{method_of(options.params)} reads data, and was given none")
    if options.probe is not None and len(groups) > 1:
        raise MergeError("a method that reads data merges one group at a time")


def _pool(base: State, experts: Sequence[State], *, options: MergeOptions) -> list[Weight]:
    check_match(base, experts=experts)
    return [
        Weight(name=name, base_state=base, expert_states=experts, device=options.device)
        for name in base
    ]


def _stream_groups(
    pool: Sequence[Weight], *, groups: Sequence[Sequence[int]], options: MergeOptions
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    measured = _measure_experts(pool, groups=groups, options=options)
    recipes = [
        _recipe(
            [weight.of_experts(group) for weight in pool],
            measured=[measured[index] for index in group],
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
    settle = options.method.settle
    if options.settles_late and settle is not None:
        lates = [partial(settle, recipe=recipe) for recipe in recipes]
        merged = settled(merged, lates=lates, method=method_of(options.params))
    yield from merged


def _stream_tasks(
    pool: Sequence[Weight], *, tasks: Sequence[int], options: MergeOptions
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    everyone = range(pool[0].num_experts) if pool else range(0)
    measured = _measure_experts(pool, groups=[everyone], options=options)
    recipe = _recipe(pool, measured=list(measured.values()), options=options)
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
    """Yields names and merged tensors in order; threads take some tensors at a time."""
    if num_threads == 1:
        yield from ((weight.name, function(weight)) for weight in pool)
        return

    def merge_batch(weights: Sequence[Weight]) -> list[tuple[str, tuple[Tensor, ...]]]:
        return [(weight.name, function(weight)) for weight in weights]

    for batch in in_order(merge_batch, _batches(pool), num_threads=num_threads):
        yield from batch


def _batches(pool: Sequence[Weight]) -> Iterator[list[Weight]]:
    """Yields runs of tensors that are worth handing to a thread: most are biases and scales."""
    batch: list[Weight] = []
    for weight in pool:
        batch.append(weight)
        if sum(each.num_entries for each in batch) >= BLOCK_ENTRIES:
            yield batch
            batch = []
    if batch:
        yield batch


def _measure_experts(
    pool: Sequence[Weight], *, groups: Sequence[Sequence[int]], options: MergeOptions
) -> dict[int, object]:
    """Measures every expert that is in a group once, however many it is in."""
    wanted = sorted({index for group in groups for index in group})
    measure = options.method.measure_expert
    weights = [weight for weight in pool if is_for_method(weight)]
    if measure is None or not weights:
        return dict.fromkeys(wanted)
    recipe = Recipe(params=options.params, seed=options.seed, statistics=None)
    results = in_order(
        lambda index: measure(weights, index, recipe=recipe),
        wanted,
        num_threads=options.num_threads,
    )
    return dict(zip(wanted, results, strict=True))


def _recipe(
    weights: Sequence[Weight], *, measured: Sequence[object], options: MergeOptions
) -> Recipe[MethodParams, Any]:
    recipe: Recipe[MethodParams, Any] = Recipe(
        params=options.params,
        seed=options.seed,
        measured=measured,
        statistics=None,
        settles_late=options.settles_late,
    )
    method = options.method
    seen = [weight for weight in weights if is_for_method(weight)]
    if method.learn is not None and options.probe is not None:
        return replace(recipe, statistics=method.learn(seen, recipe=recipe, probe=options.probe))
    if method.statistics is not None:
        return replace(recipe, statistics=method.statistics(seen, recipe=recipe))
    return recipe

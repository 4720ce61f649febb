"""Measures an operator on one group: inner products before and after it, and leaving one out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from merge.catalogue import method_of, parse_params
from merge.errors import UNNAMED, Names
from merge.measures.parts import PARTS, WITHOUT_PARTS, task_vectors
from merge.merge import MergeOptions, merge_groups, open_merge
from merge.one_tensor import is_for_method
from merge.weight import State, Weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Products:
    """Inner products of a group's task vectors over all weights, `<tau_i, tau_j>`.

    Running statistics and integers are left out, since no operator treats them.
    Shapes: (experts, experts).
    """

    before: Matrix
    after: Matrix | None
    """Of the parts that the operator adds; equal to `before` for linear methods. None for spectral
    methods, whose results have no parts, and for methods of a user, whose parts are unknown."""


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """The change of a merge when one expert is left out, for each expert.

    The expert is left out by putting the base in its place, so that coefficients and random masks
    of the others stay.
    """

    moved: tuple[float, ...]
    """Squared distance of the merged weights, with and without the expert."""
    flipped: tuple[float, ...]
    """Share of the entries that the merge moves whose sign becomes the opposite one."""


def measure_products(
    base: State, experts: Sequence[State], *, options: MergeOptions, names: Names = UNNAMED
) -> Products:
    """Returns the inner products of a group's vectors before and after an operator.

    One pass over the experts, besides those of the method itself. Memory: one block of every
    expert; for methods per task, one tensor of every task's model.

    Raises:
        MergeError: As in `merge.merge.merge_groups`.
    """
    method = method_of(options.params)
    parts_of = PARTS.get(method)
    if parts_of is None:  # linear or spectral: nothing has to be measured, or learned from data
        average = MergeOptions(params=parse_params("average", {}), device=options.device)
        weights, _ = open_merge(base, experts, options=average, names=names)
        before = _gram((each for weight in weights for each in task_vectors(weight)), experts)
        has_parts = method not in WITHOUT_PARTS and options.params.own is None
        return Products(before=before, after=before if has_parts else None)
    weights, recipe = open_merge(base, experts, options=options, names=names)
    return Products(
        before=_gram((each for weight in weights for each in task_vectors(weight)), experts),
        after=_gram((each for weight in weights for each in parts_of(weight, recipe)), experts),
    )


def leave_one_out(
    base: State, experts: Sequence[State], *, options: MergeOptions, names: Names = UNNAMED
) -> LeaveOneOut:
    """Returns how far each expert decides the merge: its distance, and the signs that flip.

    For the plain average, `moved` is `|tau_i|^2 / N^2`; what an operator adds to it is its own
    instability. Costs one merge for each expert and one more, all in one pass over the files.
    Memory: one tensor of each of these merges.

    Raises:
        MergeError: As in `merge.merge.merge_groups`; methods that learn from data are refused.
    """
    num = len(experts)
    everyone = list(range(num))
    groups = [everyone, *([*everyone[:out], num, *everyone[out + 1 :]] for out in everyone)]
    pool_names = replace(names, experts=[*map(names.expert, everyone), names.base])
    moved = torch.zeros(num, dtype=torch.float64)
    flipped = torch.zeros(num, dtype=torch.float64)
    num_moving = 0
    merges = merge_groups(base, [*experts, base], groups=groups, options=options, names=pool_names)
    for name, (whole, *others) in merges:
        weight = Weight(name=name, base_state=base, expert_states=(), device=options.device)
        if not is_for_method(weight):
            continue
        start = weight.base()
        vector = whole.float() - start
        num_moving += int((vector != 0).sum())
        for out, other in enumerate(others):
            left = other.float() - start
            moved[out] += float((vector - left).square().sum(dtype=torch.float64))
            flipped[out] += int((vector * left < 0).sum())
    shares = flipped / max(1, num_moving)
    return LeaveOneOut(moved=tuple(moved.tolist()), flipped=tuple(shares.tolist()))


def _gram(blocks: Iterable[Sequence[Tensor]], experts: Sequence[State]) -> Matrix:
    gram = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    for vectors in blocks:
        stacked = torch.stack(list(vectors)).double()
        gram += (stacked @ stacked.T).cpu()
    return tuple(tuple(row) for row in gram.tolist())

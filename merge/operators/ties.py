"""TIES: trim, elect a sign for every entry, merge the entries that agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from merge.selection import largest_magnitude
from merge.weight import Weight

if TYPE_CHECKING:
    from merge.method import Recipe
    from merge.params import Consensus, TiesParams

VectorOf = Callable[[Weight, int], Tensor]
"""Gives the task vector of one expert: `Weight.task_vector`, or an edited one."""


@dataclass(frozen=True, kw_only=True)
class Election:
    """What the trim and the election need to know of all weights in scope."""

    thresholds: tuple[float, ...]
    """Per expert, the least magnitude that the trim keeps."""
    majority_sign: int
    """-1, 0 or 1: the sign that most entries elect; it decides where the sum is zero."""


def statistics(weights: Sequence[Weight], *, recipe: Recipe[TiesParams, None]) -> Election | None:
    """Returns the election over the whole model, or None where each tensor holds its own."""
    if recipe.params.scope == "tensor":
        return None
    return measure(weights, density=recipe.params.density, vector_of=Weight.task_vector)


def combine(weight: Weight, *, recipe: Recipe[TiesParams, Election | None]) -> Tensor:
    """Returns the base plus the scaled consensus of the trimmed task vectors.

    Shapes: that of the weight.
    Source: Yadav 2023, algorithm 1. Where magnitudes tie, this keeps all entries as large as the
        last that the density allows, so that no entry's position decides. Consensus `sum` is
        FusionBench's and AdaMerging's.
    Scope: model or tensor, as the parameters say.
    """
    params, vector_of = recipe.params, Weight.task_vector
    election = recipe.statistics or measure([weight], density=params.density, vector_of=vector_of)
    merged = agree(weight, election=election, consensus=params.consensus, vector_of=vector_of)
    return weight.base() + params.scaling * merged


def measure(weights: Sequence[Weight], *, density: float, vector_of: VectorOf) -> Election:
    """Returns the thresholds of the trim and the majority sign over all the weights given.

    Each weight's vectors are read three times, one alive at a time: twice for the exact threshold,
    once for the sign. The number kept is density x entries rounded to the nearest, at least one, so
    that a small tensor is never silently left at the base.
    """
    num_experts = weights[0].num_experts if weights else 0
    num_kept = max(1, round(density * sum(weight.num_entries for weight in weights)))
    thresholds = tuple(
        _threshold(weights, expert=expert, num_kept=num_kept, vector_of=vector_of)
        for expert in range(num_experts)
    )
    balance = 0
    for weight in weights:
        positive, negative = _sides(weight, thresholds=thresholds, vector_of=vector_of)
        balance += int((positive + negative).sign().sum(dtype=torch.float64))
    return Election(thresholds=thresholds, majority_sign=(balance > 0) - (balance < 0))


def agree(
    weight: Weight, *, election: Election, consensus: Consensus, vector_of: VectorOf
) -> Tensor:
    """Returns the entrywise sum or mean of the trimmed values that have the elected sign.

    The elected sign is that of the sum of the trimmed values. Where they cancel exactly the
    majority sign decides; where there is no majority either, the result is zero.
    """
    thresholds = election.thresholds
    positive, negative = _sides(weight, thresholds=thresholds, vector_of=vector_of)
    sums = positive + negative
    signs = torch.where(sums == 0, float(election.majority_sign), sums.sign())
    merged = torch.where(signs > 0, positive, negative) * signs.abs()
    if consensus == "sum":
        return merged
    num_agreeing = torch.zeros_like(merged)
    for trimmed in _trimmed(weight, thresholds=thresholds, vector_of=vector_of):
        num_agreeing += trimmed * signs > 0
    return merged / num_agreeing.clamp(min=1)


def _threshold(
    weights: Sequence[Weight], *, expert: int, num_kept: int, vector_of: VectorOf
) -> float:
    return largest_magnitude(
        lambda: (vector_of(weight, expert) for weight in weights), rank=num_kept
    )


def _trimmed(
    weight: Weight, *, thresholds: Sequence[float], vector_of: VectorOf
) -> Iterator[Tensor]:
    for expert, threshold in enumerate(thresholds):
        # Hard shrinking drops magnitudes up to its bound, so the bound is the float below the
        # threshold; in one kernel it takes 1 ms where a comparison and a selection take 18.
        bound = float(torch.nextafter(torch.tensor(threshold), torch.tensor(-1.0)))
        yield hardshrink(vector_of(weight, expert), bound)


def _sides(
    weight: Weight, *, thresholds: Sequence[float], vector_of: VectorOf
) -> tuple[Tensor, Tensor]:
    """Returns the sums of the positive and of the negative trimmed values.

    The two together hold all that the election and the sum need, so that no trimmed vector outlives
    its turn.
    """
    positive = torch.zeros_like(weight.base())
    negative = torch.zeros_like(positive)
    for trimmed in _trimmed(weight, thresholds=thresholds, vector_of=vector_of):
        positive += trimmed.clamp(min=0)
        negative += trimmed.clamp(max=0)
    return positive, negative

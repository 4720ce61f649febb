"""TIES: trim, elect a sign for every entry, merge the entries that agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.selection import SAMPLE_STEP, just_below, largest_magnitude
from merge.weight import BLOCK_ENTRIES, Weight, by_block, total

if TYPE_CHECKING:
    from merge.method import Recipe
    from merge.parameters.method_params import Consensus
    from merge.parameters.sparse import TiesParams

VectorOf = Callable[[Weight, int, Tensor | None], Tensor]
"""Gives the task vector of one expert, of a block, in the place given or in a new one:
`Weight.task_vector`, or an edited one."""


@dataclass(frozen=True, kw_only=True)
class Election:
    """What the trim and the election need to know of all weights in scope."""

    weights: Sequence[Weight]
    thresholds: Sequence[float]
    """Per expert, the least magnitude that the trim keeps."""
    vector_of: VectorOf

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Per expert, what hard shrinking takes to keep the threshold itself."""
        return tuple(map(just_below, self.thresholds))

    @cached_property
    def majority_sign(self) -> int:
        """-1, 0 or 1: the sign that most entries elect; it decides where trimmed values cancel.

        Counted when it is first asked for, in a pass of its own: in small models nothing cancels
        exactly as a rule.
        """
        balance = 0
        for weight in self.weights:
            for block in weight.unchecked().blocks:
                votes = total(_trimmed(block, election=self)).sign_()
                balance += int(votes.sum(dtype=torch.float64))
        return (balance > 0) - (balance < 0)


def measure_expert(
    weights: Sequence[Weight], index: int, *, recipe: Recipe[TiesParams, None]
) -> float | None:
    """Returns an expert's threshold over the model, or None where each tensor has its own."""
    if recipe.params.scope == "tensor":
        return None
    density = recipe.params.density
    return threshold(weights, index, density=density, vector_of=Weight.task_vector)


def statistics(weights: Sequence[Weight], *, recipe: Recipe[TiesParams, None]) -> Election | None:
    """Returns the election over the whole model, or None where each tensor holds its own."""
    if recipe.params.scope == "tensor":
        return None
    return Election(weights=weights, thresholds=recipe.measured, vector_of=Weight.task_vector)


def combine(weight: Weight, *, recipe: Recipe[TiesParams, Election | None]) -> Tensor:
    """Returns the base plus the scaled consensus of the trimmed task vectors.

    Shapes: that of the weight.
    Source: Yadav 2023, algorithm 1. Where magnitudes tie, this keeps all entries as large as the
        last that the density allows, so that no entry's position decides. Consensus `sum` is
        FusionBench's and AdaMerging's.
    Scope: model or tensor, as the parameters say.
    """
    params = recipe.params
    election = recipe.statistics or measure(
        [weight], density=params.density, vector_of=Weight.task_vector
    )
    return agree(weight, election=election, consensus=params.consensus, scaling=params.scaling)


def measure(weights: Sequence[Weight], *, density: float, vector_of: VectorOf) -> Election:
    """Returns the election over the weights given, with every expert's threshold."""
    num_experts = weights[0].num_experts if weights else 0
    thresholds = [
        threshold(weights, expert, density=density, vector_of=vector_of)
        for expert in range(num_experts)
    ]
    return Election(weights=weights, thresholds=thresholds, vector_of=vector_of)


def threshold(
    weights: Sequence[Weight], expert: int, *, density: float, vector_of: VectorOf
) -> float:
    """Returns the least magnitude that the trim of one expert keeps, over all the weights given.

    Each weight's vector is read once, block by block, and every 61st entry before. The number kept
    is density x entries rounded to the nearest, at least one, so that a small tensor is never
    silently left at the base.
    """
    num_entries = sum(weight.num_entries for weight in weights)

    def vectors() -> Iterator[Tensor]:
        largest = max(weight.num_entries for weight in weights)
        place = torch.empty(min(largest, BLOCK_ENTRIES), device=weights[0].device)
        for block in (block for weight in weights for block in weight.blocks):
            yield vector_of(block, expert, place[: block.num_entries])

    return largest_magnitude(
        vectors,
        rank=max(1, round(density * num_entries)),
        num_entries=num_entries,
        start_sample=lambda: (
            vector_of(weight.every_nth(SAMPLE_STEP), expert, None) for weight in weights
        ),
    )


def agree(weight: Weight, *, election: Election, consensus: Consensus, scaling: float) -> Tensor:
    """Returns the base plus the scaled sum or mean of the trimmed values with the elected sign.

    The elected sign is that of the sum of the trimmed values. Where they cancel exactly the
    majority sign decides; where there is no majority either, the base stays.
    """

    def merge_block(block: Weight) -> Tensor:
        agreeing = _agreeing(block, election=election, consensus=consensus)
        return agreeing.mul_(scaling).add_(block.base())

    return by_block(weight.unchecked(), merge_block)  # the trim has read everything


def _agreeing(block: Weight, *, election: Election, consensus: Consensus) -> Tensor:
    sum_, positive = _sums(block, election=election)
    signs = sum_.sign()
    cancels = _where_values_cancel(signs, positive)
    if bool(cancels.any()):
        signs[cancels] = float(election.majority_sign)
    # Products with floats that are 0 or 1 take an eighth of those with flags.
    negative = sum_.sub_(positive)
    merged = positive.mul_(signs.clamp(min=0)) - negative.mul_(signs.clamp(max=0))
    if consensus == "sum":
        return merged
    num_agreeing = torch.zeros_like(merged)
    for trimmed in _trimmed(block, election=election):
        num_agreeing += trimmed * signs > 0
    return merged / num_agreeing.clamp_(min=1)


def _where_values_cancel(signs: Tensor, positive: Tensor) -> Tensor:
    if signs.is_cuda:
        return (signs == 0) & (positive > 0)
    # numpy compares five times as fast as torch does on the CPU.
    return torch.from_numpy((signs.numpy() == 0) & (positive.numpy() > 0))


def _trimmed(block: Weight, *, election: Election) -> Iterator[Tensor]:
    """Yields each expert's trimmed vector, all in one place: the next overwrites it."""
    place = block.scratch()
    for expert, bound in enumerate(election.bounds):
        vector = election.vector_of(block, expert, place)
        yield torch.hardshrink(vector, bound, out=vector)


def trim(vector: Tensor, *, least: float) -> Tensor:
    """Returns a vector without the entries of a lesser magnitude than `least`; a new one."""
    return torch.hardshrink(vector, just_below(least))


def _sums(block: Weight, *, election: Election) -> tuple[Tensor, Tensor]:
    """Returns the sums of the trimmed values and of the positive ones among them.

    The two hold all that the election and the sum need, so that no trimmed vector outlives its
    turn. Where the negative ones are elected, theirs is the greater sum, and the difference of the
    two rounds as adding them up would.
    """
    sum_ = torch.zeros(block.shape, device=block.device)
    positive = torch.zeros_like(sum_)
    for trimmed in _trimmed(block, election=election):
        sum_ += trimmed
        positive += trimmed.clamp_(min=0)
    return sum_, positive

"""TIES: trim, elect a sign for every entry, merge the entries that agree with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.late import LateEntries
from merge.sign_election import Election, Waiting, balance, measure
from merge.trimming import threshold
from merge.weight import Weight, by_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from merge.parameters.method_params import Consensus
    from merge.parameters.sparse import TiesParams
    from merge.protocols import Recipe


def measure_expert(
    weights: Sequence[Weight], index: int, *, recipe: Recipe[TiesParams, None]
) -> float | None:
    """Returns an expert's threshold over the model, or None where each tensor has its own."""
    if recipe.params.scope == "tensor":
        return None
    unchecked = [weight.unchecked() for weight in weights]  # what is read shows in the sums
    density = recipe.params.density
    return threshold(unchecked, index, density=density, vector_of=Weight.task_vector)


def statistics(weights: Sequence[Weight], *, recipe: Recipe[TiesParams, None]) -> Election | None:
    """Returns the election over the whole model, or None where each tensor holds its own."""
    if recipe.params.scope == "tensor":
        return None
    return Election(
        weights=weights,
        thresholds=recipe.measured,
        vector_of=Weight.task_vector,
        is_late=recipe.settles_late,
    )


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


def settle(*, recipe: Recipe[TiesParams, Election | None]) -> Iterator[LateEntries]:
    """Yields the entries whose values cancel, with the sign that most entries have elected."""
    election = recipe.statistics
    if election is None or election.majority_sign == 0:
        return
    for each in election.waiting:
        agreeing = each.by_sign[election.majority_sign]
        values = agreeing.mul_(recipe.params.scaling).add_(each.base)
        yield LateEntries(name=each.name, positions=each.positions, values=values)


def agree(weight: Weight, *, election: Election, consensus: Consensus, scaling: float) -> Tensor:
    """Returns the base plus the scaled sum or mean of the trimmed values with the elected sign.

    The elected sign is that of the sum of the trimmed values. Where they cancel exactly the
    majority sign decides; where there is no majority either, or not yet, the base stays.
    """

    def merge_block(block: Weight) -> Tensor:
        agreeing = _agreeing(block, election=election, consensus=consensus)
        return agreeing.mul_(scaling).add_(block.unchecked().base())

    return by_block(weight, merge_block)


def _agreeing(block: Weight, *, election: Election, consensus: Consensus) -> Tensor:
    sum_, positive = election.sums(block)
    signs = sum_.sign()
    cancels = _where_values_cancel(signs, positive)
    if election.is_late:
        election.votes.append(balance(signs))
    if bool(cancels.any()):
        if election.is_late:
            election.waiting.append(_waiting(block, cancels, positive, election, consensus))
        else:
            signs[cancels] = float(election.majority_sign)
    # Products with floats that are 0 or 1 take an eighth of those with flags.
    negative = sum_.sub_(positive)
    merged = positive.mul_(signs.clamp(min=0)) - negative.mul_(signs.clamp(max=0))
    if consensus == "sum":
        return merged
    num_agreeing = torch.zeros_like(merged)
    for trimmed in election.trimmed(block):
        num_agreeing += trimmed * signs > 0
    return merged / num_agreeing.clamp_(min=1)


def _where_values_cancel(signs: Tensor, positive: Tensor) -> Tensor:
    if signs.is_cuda:
        return (signs == 0) & (positive > 0)
    # numpy compares five times as fast as torch does on the CPU.
    return torch.from_numpy((signs.numpy() == 0) & (positive.numpy() > 0))


def _waiting(
    block: Weight, cancels: Tensor, positive: Tensor, election: Election, consensus: Consensus
) -> Waiting:
    """Returns the entries that cancel, where the sums of either sign differ in it alone."""
    sums = positive[cancels]

    def if_elected(sign: int) -> Tensor:
        if consensus == "sum":
            return sign * sums
        num_agreeing = torch.zeros_like(sums)
        for trimmed in election.trimmed(block):
            num_agreeing += trimmed[cancels] * sign > 0
        return sign * sums / num_agreeing

    assert block.span is not None
    return Waiting(
        name=block.name,
        positions=block.span.start + cancels.nonzero().flatten(),
        base=block.unchecked().base()[cancels],
        by_sign={sign: if_elected(sign) for sign in (1, -1)},
    )

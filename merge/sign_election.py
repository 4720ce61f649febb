"""Trims task vectors, elects a sign for every entry and merges the values that have it: TIES.

The trim keeps the largest magnitudes of a task vector and drops all others.
The elected sign of an entry is the sign of the sum of its trimmed values over all experts. Where
these values cancel exactly, the majority sign decides: the sign that more entries in scope have
elected. TIES and DARE + TIES share this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.kth_magnitude import SAMPLE_STEP, just_below, largest_magnitude
from merge.weight import BLOCK_ENTRIES, Weight, by_block

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from merge.parameters.method_params import Consensus
    from merge.radix import Pass


VectorOf = Callable[[Weight, int, Tensor | None], Tensor]
"""Returns one expert's task vector of a block: `Weight.task_vector`, or a thinned one. The third
argument takes the result, or is None for a new tensor."""
_MIN_SAMPLED = 1024
"""Fewest entries of a tensor that is sampled. Most tensors are biases and scales: they hold a
thousandth of the entries, and reading a sample of one takes as long as reading a sample of a
kernel."""


def threshold(
    weights: Sequence[Weight], expert: int, *, density: float, vector_of: VectorOf
) -> float:
    """Returns the least magnitude that the trim of one expert keeps, over all given weights.

    Every 61st entry of the large weights is read first, then every entry once, in blocks. The
    number of kept entries is density x entries, rounded to the nearest integer and at least one, so
    a small tensor is never silently left at the base.
    """
    num_entries = sum(weight.num_entries for weight in weights)
    large = [weight for weight in weights if weight.num_entries >= _MIN_SAMPLED]
    return largest_magnitude(
        _vectors(weights, expert, num_entries=num_entries, vector_of=vector_of),
        rank=max(1, round(density * num_entries)),
        num_entries=num_entries,
        start_sample=lambda: (
            vector_of(weight.every_nth(SAMPLE_STEP), expert, None) for weight in large or weights
        ),
    )


def trim(vector: Tensor, *, least: float) -> Tensor:
    """Returns a new vector in which magnitudes below `least` are zero."""
    return torch.hardshrink(vector, just_below(least))


def _vectors(
    weights: Sequence[Weight], expert: int, *, num_entries: int, vector_of: VectorOf
) -> Pass:
    def start() -> Iterator[Tensor]:
        """Yields all entries in one buffer, several small tensors at a time."""
        buffer = torch.empty(min(num_entries, BLOCK_ENTRIES), device=weights[0].device)
        num_filled = 0
        for block in (block for weight in weights for block in weight.blocks):
            if num_filled + block.num_entries > len(buffer):
                yield buffer[:num_filled]
                num_filled = 0
            vector_of(block, expert, buffer[num_filled : num_filled + block.num_entries])
            num_filled += block.num_entries
        yield buffer[:num_filled]

    return start


@dataclass(frozen=True, kw_only=True, eq=False)
class UndecidedEntries:
    """Entries of one block whose trimmed values cancel, until the majority sign is known."""

    name: str
    """Name of the tensor."""
    positions: Tensor
    """(num,): positions in the flattened tensor."""
    base: Tensor
    """(num,): the base's values."""
    by_sign: Mapping[int, Tensor]
    """For sign 1 and -1, the consensus if that sign is elected, (num,)."""


@dataclass(frozen=True, kw_only=True)
class Election:
    """Everything that the trim and the election need to know about the weights in scope."""

    weights: Sequence[Weight]
    thresholds: Sequence[float]
    """For each expert, the least magnitude that the trim keeps."""
    vector_of: VectorOf
    may_defer: bool = False
    """Whether entries that cancel wait until all blocks have been merged. Otherwise a pass over the
    model counts the majority sign when the first such entry is met."""
    block_balances: list[int] = field(default_factory=list)
    """For each block merged so far, positive minus negative signs; filled if `may_defer`."""
    undecided: list[UndecidedEntries] = field(default_factory=list)
    """Entries that wait for the majority sign; filled if `may_defer`."""

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """For each expert, the bound with which hard shrinking keeps the threshold itself."""
        return tuple(map(just_below, self.thresholds))

    @cached_property
    def majority_sign(self) -> int:
        """The sign that most entries elect: -1 or 1, or 0 for a tie.

        Without `may_defer` it is counted on first use, by a pass over the weights. In small models
        no values cancel exactly as a rule, and that pass never runs.
        """
        balance = sum(self.block_balances if self.may_defer else map(self._balance, self.weights))
        return (balance > 0) - (balance < 0)

    def trimmed(self, block: Weight) -> Iterator[Tensor]:
        """Yields each expert's trimmed task vector in the same memory: the next overwrites it."""
        unchecked, scratch = block.unchecked(), block.scratch()
        for expert, bound in enumerate(self.bounds):
            vector = self.vector_of(unchecked, expert, scratch)
            yield torch.hardshrink(vector, bound, out=vector)

    def sums(self, block: Weight) -> tuple[Tensor, Tensor]:
        """Returns the sum of the trimmed values and the sum of the positive ones among them.

        The election and the consensus need nothing else, so each trimmed vector can be overwritten
        by the next. Where the negative sign is elected, the negative values have the greater sum,
        and the difference of the two sums rounds as adding up the negative values would.
        """
        sum_ = torch.zeros(block.shape, device=block.device)
        positive = torch.zeros_like(sum_)
        for trimmed in self.trimmed(block):
            sum_ += trimmed
            positive += trimmed.clamp_(min=0)
        block.check_sum(sum_)  # the trim keeps NaN and inf, so the sum shows them
        return sum_, positive

    def _balance(self, weight: Weight) -> int:
        sums = (block.checked_sum(self.trimmed(block)) for block in weight.blocks)
        return sum(_balance_of(each.sign_()) for each in sums)


def open_election(
    weights: Sequence[Weight], *, density: float, vector_of: VectorOf, may_defer: bool = False
) -> Election:
    """Measures every expert's threshold and returns the election over the given weights."""
    num_experts = weights[0].num_experts if weights else 0
    unchecked = [weight.unchecked() for weight in weights]  # the sums show NaN and inf
    thresholds = [
        threshold(unchecked, expert, density=density, vector_of=vector_of)
        for expert in range(num_experts)
    ]
    return Election(
        weights=weights, thresholds=thresholds, vector_of=vector_of, may_defer=may_defer
    )


def add_consensus(
    weight: Weight, *, election: Election, consensus: Consensus, scaling: float
) -> Tensor:
    """Returns the base plus the scaled sum or mean of the trimmed values with the elected sign.

    Where the trimmed values cancel exactly, the majority sign decides. The base stays where there
    is no majority sign, or not yet.

    Shapes: that of the weight.
    """

    def merge_block(block: Weight) -> Tensor:
        agreeing = _merge_agreeing(block, election=election, consensus=consensus)
        return agreeing.mul_(scaling).add_(block.unchecked().base())

    return by_block(weight, merge_block)


def _merge_agreeing(block: Weight, *, election: Election, consensus: Consensus) -> Tensor:
    sum_, positive = election.sums(block)
    signs = _elect(block, sum_, positive, election=election, consensus=consensus)
    # Products with floats of 0 and 1 take an eighth of the time of products with bools.
    negative = sum_.sub_(positive)
    merged = positive.mul_(signs.clamp(min=0)) - negative.mul_(signs.clamp(max=0))
    if consensus == "sum":
        return merged
    num_agreeing = torch.zeros_like(merged)
    for trimmed in election.trimmed(block):
        num_agreeing += trimmed * signs > 0
    return merged / num_agreeing.clamp_(min=1)


def _elect(
    block: Weight, sum_: Tensor, positive: Tensor, *, election: Election, consensus: Consensus
) -> Tensor:
    """Returns the elected signs as floats: -1, 1, or 0 where no sign is elected (yet)."""
    signs = sum_.sign()
    cancels = _where_values_cancel(signs, positive)
    if election.may_defer:
        election.block_balances.append(_balance_of(signs))
    if bool(cancels.any()):
        if election.may_defer:
            election.undecided.append(_undecided(block, cancels, positive, election, consensus))
        else:
            signs[cancels] = float(election.majority_sign)
    return signs


def _where_values_cancel(signs: Tensor, positive: Tensor) -> Tensor:
    if signs.is_cuda:
        return (signs == 0) & (positive > 0)
    # On the CPU numpy compares five times as fast as torch.
    return torch.from_numpy((signs.numpy() == 0) & (positive.numpy() > 0))


def _balance_of(signs: Tensor) -> int:
    """Returns how many more of the signs are positive than negative."""
    return int(signs.sum(dtype=torch.float64))


def _undecided(
    block: Weight, cancels: Tensor, positive: Tensor, election: Election, consensus: Consensus
) -> UndecidedEntries:
    """Returns the entries that cancel; their positive and negative sums differ only in sign."""
    sums = positive[cancels]

    def if_elected(sign: int) -> Tensor:
        if consensus == "sum":
            return sign * sums
        num_agreeing = torch.zeros_like(sums)
        for trimmed in election.trimmed(block):
            num_agreeing += trimmed[cancels] * sign > 0
        return sign * sums / num_agreeing

    assert block.span is not None
    return UndecidedEntries(
        name=block.name,
        positions=block.span.start + cancels.nonzero().flatten(),
        base=block.unchecked().base()[cancels],
        by_sign={sign: if_elected(sign) for sign in (1, -1)},
    )

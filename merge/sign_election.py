"""The election of a sign for every entry, by the sum of the trimmed task vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.kth_magnitude import just_below
from merge.trimming import threshold

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from merge.trimming import VectorOf
    from merge.weight import Weight


@dataclass(frozen=True, kw_only=True, eq=False)
class Waiting:
    """Entries of one block whose values cancel, until the majority sign is known."""

    name: str
    """The tensor's."""
    positions: Tensor
    """(num,): in the flattened tensor."""
    base: Tensor
    """(num,)."""
    by_sign: Mapping[int, Tensor]
    """(num,): the consensus where 1 or -1 is elected."""


@dataclass(frozen=True, kw_only=True)
class Election:
    """What the trim and the election need to know of all weights in scope."""

    weights: Sequence[Weight]
    thresholds: Sequence[float]
    """Per expert, the least magnitude that the trim keeps."""
    vector_of: VectorOf
    is_late: bool = False
    """Whether entries that cancel wait until all blocks have voted, in place of a pass that counts
    the majority."""
    votes: list[int] = field(default_factory=list)
    """The balance of each block that is merged, if it is late."""
    waiting: list[Waiting] = field(default_factory=list)
    """What waits, if it is late."""

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Per expert, what hard shrinking takes to keep the threshold itself."""
        return tuple(map(just_below, self.thresholds))

    @cached_property
    def majority_sign(self) -> int:
        """-1, 0 or 1: the sign that most entries elect; it decides where trimmed values cancel.

        If the election is not late, it is counted when it is first asked for, in a pass of its own:
        in small models nothing cancels exactly as a rule.
        """
        balance = sum(self.votes if self.is_late else map(self._balance, self.weights))
        return (balance > 0) - (balance < 0)

    def trimmed(self, block: Weight) -> Iterator[Tensor]:
        """Yields each expert's trimmed vector, all in one place: the next overwrites it."""
        unchecked, place = block.unchecked(), block.scratch()
        for expert, bound in enumerate(self.bounds):
            vector = self.vector_of(unchecked, expert, place)
            yield torch.hardshrink(vector, bound, out=vector)

    def sums(self, block: Weight) -> tuple[Tensor, Tensor]:
        """Returns the sums of the trimmed values and of the positive ones among them.

        The two hold all that the election and the sum need, so that no trimmed vector outlives its
        turn. Where the negative ones are elected, theirs is the greater sum, and the difference of
        the two rounds as adding them up would.
        """
        sum_ = torch.zeros(block.shape, device=block.device)
        positive = torch.zeros_like(sum_)
        for trimmed in self.trimmed(block):
            sum_ += trimmed
            positive += trimmed.clamp_(min=0)
        block.check_sum(sum_)  # the trim keeps what is not finite
        return sum_, positive

    def _balance(self, weight: Weight) -> int:
        sums = (block.checked_sum(self.trimmed(block)) for block in weight.blocks)
        return sum(balance(each.sign_()) for each in sums)


def balance(signs: Tensor) -> int:
    """Returns how many more of the signs are positive than negative."""
    return int(signs.sum(dtype=torch.float64))


def measure(
    weights: Sequence[Weight], *, density: float, vector_of: VectorOf, is_late: bool = False
) -> Election:
    """Returns the election over the weights given, with every expert's threshold."""
    num_experts = weights[0].num_experts if weights else 0
    unchecked = [weight.unchecked() for weight in weights]  # what is read shows in the sums
    thresholds = [
        threshold(unchecked, expert, density=density, vector_of=vector_of)
        for expert in range(num_experts)
    ]
    return Election(weights=weights, thresholds=thresholds, vector_of=vector_of, is_late=is_late)

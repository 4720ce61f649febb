"""The trim: which magnitudes of a task vector stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.kth_magnitude import SAMPLE_STEP, just_below, largest_magnitude
from merge.weight import BLOCK_ENTRIES, Weight

if TYPE_CHECKING:
    from merge.radix import Pass

VectorOf = Callable[[Weight, int, Tensor | None], Tensor]
"""Gives the task vector of one expert, of a block, in the place given or in a new one:
`Weight.task_vector`, or an edited one."""
_MIN_SAMPLED = 1024
"""Entries of a tensor that is sampled: most tensors are biases and scales, which hold a thousandth
of the entries, and a sample of one takes as long to read as one of a kernel."""


def threshold(
    weights: Sequence[Weight], expert: int, *, density: float, vector_of: VectorOf
) -> float:
    """Returns the least magnitude that the trim of one expert keeps, over all the weights given.

    Each weight's vector is read once, in blocks, and every 61st entry of the large ones before. The
    number kept is density x entries rounded to the nearest, at least one, so that a small tensor is
    never silently left at the base.
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
    """Returns a vector without the entries of a lesser magnitude than `least`; a new one."""
    return torch.hardshrink(vector, just_below(least))


def _vectors(
    weights: Sequence[Weight], expert: int, *, num_entries: int, vector_of: VectorOf
) -> Pass:
    def start() -> Iterator[Tensor]:
        """Yields all entries in one place, small tensors together."""
        place = torch.empty(min(num_entries, BLOCK_ENTRIES), device=weights[0].device)
        num_filled = 0
        for block in (block for weight in weights for block in weight.blocks):
            if num_filled + block.num_entries > len(place):
                yield place[:num_filled]
                num_filled = 0
            vector_of(block, expert, place[num_filled : num_filled + block.num_entries])
            num_filled += block.num_entries
        yield place[:num_filled]

    return start

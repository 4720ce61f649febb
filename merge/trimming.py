"""The trim of TIES: keeps the largest magnitudes of a task vector and drops all others."""

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

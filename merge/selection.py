"""Exact selection by magnitude over tensors that are never together in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_STEP = 61
"""Every 61st entry is sampled: a prime, so that no axis of a kernel is sampled at one place."""
_MIN_SAMPLE = 1024
"""Of fewer entries all are kept and none is counted: 62 thousand entries at most."""
_NUM_ERRORS = 6
"""Half the width of the bracket, in standard errors of the sampled rank, besides `_BIAS`."""
_BIAS = 0.005
"""Allowed share of the sample by which the small tensors, sampled more often, shift the rank."""

_HALF_BITS = 16
_NUM_BINS = 1 << _HALF_BITS
_LOW_HALF = _NUM_BINS - 1

Pass = Callable[[], Iterable[Tensor]]
"""Starts one reading of all tensors in scope; called again, it must give the same values."""


def largest_magnitude(
    start_pass: Pass, *, rank: int, num_entries: int, start_sample: Pass | None = None
) -> float:
    """Returns the magnitude at a rank among all entries, exactly; rank 1 is the largest.

    A sample brackets it between two magnitudes. One pass counts the entries above the bracket and
    keeps those inside, some 2 %, among which it is found by partition. Where the bracket missed, a
    radix selection in two more passes finds it.

    Args:
        start_pass: Reads all entries.
        rank: From 1 to the number of entries.
        num_entries: How many there are.
        start_sample: Reads every `SAMPLE_STEP`-th entry, where that is cheaper than to read all
            and drop the others. What it gives decides on the time, not on the result.

    Shapes: any; the tensors are one long vector.

    Raises:
        ValueError: the rank is below 1 or beyond the entries.
    Scope: all tensors of a pass.
    """
    if not 1 <= rank <= num_entries:
        raise ValueError(f"rank {rank} is outside 1 to {num_entries}")
    sampled = start_sample() if start_sample else (_every_nth(each) for each in start_pass())
    low, high = _bracket(sampled, share=rank / num_entries)
    num_above, inside = _split(start_pass(), low=low, high=high)
    position = len(inside) - (rank - num_above)
    if 0 <= position < len(inside):
        return float(np.partition(inside, position)[position])
    return _by_radix(start_pass, rank=rank)


def _every_nth(tensor: Tensor) -> Tensor:
    return tensor.flatten()[::SAMPLE_STEP]


def _bracket(sampled: Iterable[Tensor], *, share: float) -> tuple[float, float]:
    """Returns magnitudes between which that at the rank lies, most likely."""
    sample = np.concatenate([each.abs().flatten().cpu().numpy() for each in sampled])
    num = len(sample)
    if num < _MIN_SAMPLE:
        return 0.0, math.inf
    sample.sort()
    margin = _NUM_ERRORS * math.sqrt(num * share * (1 - share)) + _BIAS * num
    low, high = math.floor(num * (1 - share) - margin), math.ceil(num * (1 - share) + margin)
    return (
        float(sample[low]) if low >= 0 else 0.0,
        float(sample[high]) if high < num else math.inf,
    )


def _split(
    tensors: Iterable[Tensor], *, low: float, high: float
) -> tuple[int, NDArray[np.float32]]:
    """Returns how many magnitudes are above a bracket, and those that are inside it."""
    num_above = 0
    inside = []
    for tensor in tensors:
        magnitudes = tensor.abs().flatten()
        if magnitudes.is_cuda:
            num_above += int((magnitudes > high).sum())
            kept = magnitudes[(magnitudes >= low) & (magnitudes <= high)]
            inside.append(kept.cpu().numpy())
        else:  # numpy compares and selects five times as fast as torch does on the CPU
            values = magnitudes.numpy()
            num_above += int(np.count_nonzero(values > high))
            inside.append(values[(values >= low) & (values <= high)])
    return num_above, np.concatenate(inside)


def _by_radix(start_pass: Pass, *, rank: int) -> float:
    """Finds the magnitude by its bit pattern, as those of non-negative floats are ordered as they.

    One pass counts the upper 16 bits, a second the lower 16 bits of the entries in the bin that the
    rank fell into, in 0.5 MB.
    """
    high, num_above = _bin_of(_count_high(start_pass()), rank=rank)
    low, _ = _bin_of(_count_low(start_pass(), high=high), rank=rank - num_above)
    bits = torch.tensor(high << _HALF_BITS | low, dtype=torch.int32)
    return float(bits.view(torch.float32))


def _count_high(tensors: Iterable[Tensor]) -> Tensor:
    return _count(bits >> _HALF_BITS for bits in _magnitude_bits(tensors))


def _count_low(tensors: Iterable[Tensor], *, high: int) -> Tensor:
    return _count(
        bits[(bits >> _HALF_BITS) == high] & _LOW_HALF for bits in _magnitude_bits(tensors)
    )


def _magnitude_bits(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    for tensor in tensors:
        yield tensor.abs().flatten().view(torch.int32)


def _count(halves: Iterator[Tensor]) -> Tensor:
    counts = torch.zeros(_NUM_BINS, dtype=torch.int64)
    for half in halves:
        counts += torch.bincount(half, minlength=_NUM_BINS).cpu()
    return counts


def _bin_of(counts: Tensor, *, rank: int) -> tuple[int, int]:
    """Returns the bin that holds the rank, counted from above, and the count above that bin."""
    from_above = counts.flip(0).cumsum(0)
    position = int(torch.searchsorted(from_above, rank))
    num_above = int(from_above[position - 1]) if position else 0
    return _NUM_BINS - 1 - position, num_above

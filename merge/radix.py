"""Exact selection of several ranks, and of rows, by the bits of floats, in two readings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

_HALF_BITS = 16
_NUM_BINS = 1 << _HALF_BITS
_LOW_HALF = _NUM_BINS - 1
_ALL_BUT_SIGN = (1 << 31) - 1

Pass = Callable[[], Iterable[Tensor]]
"""Starts one reading of all tensors in scope; called twice, it must give the same values."""
PassOfRows = Callable[[], Iterable[tuple[int, Tensor]]]
"""Starts one reading of several scopes, or rows, whose tensors may come in any order."""


def largest_magnitudes(start_pass: Pass, *, ranks: Sequence[int]) -> list[float]:
    """Returns the magnitudes at some ranks among all entries, exactly; rank 1 is the largest.

    A radix selection in two passes, see `largest`, without what signs cost.

    Shapes: any; the tensors are one long vector.

    Raises:
        ValueError: fewer entries than a rank.
    Scope: all tensors of a pass.
    """
    (found,) = _select(lambda: ((0, _bits(tensor.abs())) for tensor in start_pass()), ranks=[ranks])
    return found


def largest(start_pass: PassOfRows, *, ranks: Sequence[Sequence[int]]) -> list[list[float]]:
    """Returns for each row the values at its ranks among the row's entries; rank 1 is the largest.

    Floats are ordered as their bit patterns are, once those of negative ones are turned around, so
    a radix selection in two halves finds the values: one pass counts the upper 16 bits, a second
    the lower 16 bits of the entries in the bins that the ranks fell into. Two passes of about 10 ms
    over 3.4 M entries on one core take the place of 310 ms of sorting, in 0.5 MB a row and a rank.

    Shapes: any; the tensors of a row are one long vector.

    Raises:
        ValueError: a row with fewer entries than a rank.
    Scope: all tensors of a row.
    """
    return _select(lambda: ((row, _ordered(tensor)) for row, tensor in start_pass()), ranks=ranks)


def _select(start_pass: PassOfRows, *, ranks: Sequence[Sequence[int]]) -> list[list[float]]:
    """Selects among keys, int32 numbers in the order of the values."""
    highs = [torch.zeros(_NUM_BINS, dtype=torch.int64) for _ in ranks]
    for row, keys in start_pass():
        highs[row] += _count((keys >> _HALF_BITS) & _LOW_HALF)
    bins = [
        [_bin_of(highs[row].roll(_NUM_BINS // 2), rank=rank) for rank in ranks[row]]
        for row in range(len(ranks))
    ]
    lows = [[torch.zeros(_NUM_BINS, dtype=torch.int64) for _ in row] for row in bins]
    for row, keys in start_pass():
        for place, (high, _) in enumerate(bins[row]):
            lows[row][place] += _count(_low_halves(keys, high=high - _NUM_BINS // 2))
    return [
        [
            _value(high - _NUM_BINS // 2, low=_bin_of(counts, rank=rank - num_above)[0])
            for rank, counts, (high, num_above) in zip(*each, strict=True)
        ]
        for each in zip(ranks, lows, bins, strict=True)
    ]


def _bits(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.int32)


def _ordered(tensor: Tensor) -> Tensor:
    bits = _bits(tensor)
    return (bits >> 31).bitwise_and_(_ALL_BUT_SIGN).bitwise_xor_(bits)


def _value(high: int, *, low: int) -> float:
    key = high << _HALF_BITS | low
    bits = torch.tensor(key if key >= 0 else key ^ _ALL_BUT_SIGN, dtype=torch.int32)
    return float(bits.view(torch.float32))


def _low_halves(keys: Tensor, *, high: int) -> Tensor:
    if keys.device.type != "cpu":
        return keys[(keys >> _HALF_BITS) == high] & _LOW_HALF
    # numpy selects a few of many in a fifth of the time that torch takes.
    entries = keys.numpy()
    return torch.from_numpy(entries[(entries >> _HALF_BITS) == high] & _LOW_HALF)


def _count(halves: Tensor) -> Tensor:
    return torch.bincount(halves, minlength=_NUM_BINS).cpu()


def _bin_of(counts: Tensor, *, rank: int) -> tuple[int, int]:
    """Returns the bin that holds the rank, counted from above, and the count above that bin."""
    from_above = counts.flip(0).cumsum(0)
    if not 1 <= rank <= int(from_above[-1]):
        raise ValueError(f"rank {rank} is outside 1 to {int(from_above[-1])}")
    position = int(torch.searchsorted(from_above, rank))
    num_above = int(from_above[position - 1]) if position else 0
    return _NUM_BINS - 1 - position, num_above

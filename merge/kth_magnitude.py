"""Finds the k-th largest magnitude over many tensors exactly, without holding them together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merge.radix import Pass, largest_magnitudes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from torch import Tensor

SAMPLE_STEP = 61
"""Every 61st entry is sampled: a prime, so that no axis of a kernel is sampled at one place."""
_MIN_SAMPLE = 1024
"""Smallest sample that brackets the rank. Below it, at most 62 thousand entries, all magnitudes are
kept and partitioned."""
MAX_KEPT_FRACTION = 0.125
"""Part of a tensor inside the bracket from which on those at its bounds are counted, not kept."""
_NUM_ERRORS = 5
"""Half the width of the bracket, in standard errors of the rank in the sample."""


def largest_magnitude(
    start_pass: Pass, *, rank: int, num_entries: int, start_sample: Pass | None = None
) -> float:
    """Returns the exact magnitude at a rank among all entries; rank 1 is the largest.

    A sample gives a bracket of two magnitudes around the wanted one. One pass then counts the
    entries above the bracket and keeps the entries inside it, about 1 %, and a partition of these
    finds the magnitude. If the bracket missed it, a radix selection finds it in two more passes.

    Args:
        start_pass: Starts a pass over all entries. Each tensor is used before the next one is
            requested, so a pass may reuse one buffer.
        rank: From 1 to the number of entries.
        num_entries: Number of entries in a pass.
        start_sample: Starts a pass over every `SAMPLE_STEP`-th entry, if that is cheaper than
            reading all entries and dropping most. The sample affects the time, not the result.

    Shapes: any; the tensors are taken as one long vector.

    Raises:
        ValueError: The rank is below 1 or above the number of entries.
    Scope: all tensors of a pass.
    """
    if not 1 <= rank <= num_entries:
        raise ValueError(f"rank {rank} is outside 1 to {num_entries}")
    sampled = start_sample() if start_sample else (_every_nth(each) for each in start_pass())
    low, high = _bracket(sampled, share=rank / num_entries)
    found = _split(start_pass(), low=low, high=high)
    rank_inside = rank - found.num_above
    if 0 < rank_inside <= found.num_high:
        return high
    position = len(found.inside) - (rank_inside - found.num_high)
    if 0 <= position < len(found.inside):
        return float(np.partition(found.inside, position)[position])
    if -found.num_low <= position < 0:
        return low
    (magnitude,) = largest_magnitudes(start_pass, ranks=(rank,))
    return magnitude


def just_below(value: float) -> float:
    """Returns the greatest float32 below a float32.

    `torch.hardshrink` drops magnitudes up to and including its bound, so with this bound it keeps
    the value itself. One call takes 1 ms where a comparison and a selection take 18.
    """
    return float(np.nextafter(np.float32(value), np.float32(-1)))


def _every_nth(tensor: Tensor) -> Tensor:
    return tensor.flatten()[::SAMPLE_STEP]


def _bracket(sampled: Iterable[Tensor], *, share: float) -> tuple[float, float]:
    """Returns two magnitudes that most likely bracket the magnitude at the rank."""
    magnitudes = [each.abs().flatten().cpu().numpy() for each in sampled]
    sample = np.concatenate(magnitudes)
    num = len(sample)
    if num < _MIN_SAMPLE:
        return 0.0, math.inf
    # Every tensor's first entry is sampled, so each tensor can be sampled once too often.
    margin = _NUM_ERRORS * math.sqrt(num * share * (1 - share)) + len(magnitudes)
    low, high = math.floor(num * (1 - share) - margin), math.ceil(num * (1 - share) + margin)
    sample.partition([max(low, 0), min(high, num - 1)])  # a sixth of the time of sorting
    return (
        float(sample[low]) if low >= 0 else 0.0,
        float(sample[high]) if high < num else math.inf,
    )


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Magnitudes of a pass, compared with a bracket."""

    num_above: int
    inside: NDArray[np.float32]
    """The magnitudes inside, except some that equal a bound."""
    num_low: int
    """Number of exceptions that equal the lower bound."""
    num_high: int
    """Number of exceptions that equal the upper bound, if it is another one."""


def _split(tensors: Iterable[Tensor], *, low: float, high: float) -> _Split:
    """Compares all magnitudes with a bracket.

    Weights that were not trained have task vectors of zeros, and a bracket that begins at zero
    would keep all of them. So of many magnitudes in a tensor, those that equal a bound are counted.
    """
    num_above = num_low = num_high = 0
    inside: list[NDArray[np.float32]] = []
    scratch = np.empty(0, np.float32)
    for tensor in tensors:
        if tensor.is_cuda:
            magnitudes = tensor.abs().flatten()
            num_above += int((magnitudes > high).sum())
            kept = magnitudes[(magnitudes >= low) & (magnitudes <= high)].cpu().numpy()
        else:  # on the CPU numpy compares and selects five times as fast as torch
            if tensor.numel() > len(scratch):
                scratch = np.empty(tensor.numel(), np.float32)
            values = np.abs(tensor.numpy().reshape(-1), out=scratch[: tensor.numel()])
            above, within = values > high, values >= low
            num_above += int(np.count_nonzero(above))
            kept = values[np.logical_xor(within, above, out=within)]
        if len(kept) > MAX_KEPT_FRACTION * tensor.numel():
            is_low = kept == low
            is_high = (kept == high) & ~is_low
            num_low += int(np.count_nonzero(is_low))
            num_high += int(np.count_nonzero(is_high))
            kept = kept[~(is_low | is_high)]
        inside.append(kept)
    return _Split(
        num_above=num_above, inside=np.concatenate(inside), num_low=num_low, num_high=num_high
    )

"""Finds the k-th largest magnitude over many tensors exactly, without holding them together."""

from __future__ import annotations

import math
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
    num_above, inside = _split(start_pass(), low=low, high=high)
    position = len(inside) - (rank - num_above)
    if 0 <= position < len(inside):
        return float(np.partition(inside, position)[position])
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


def _split(
    tensors: Iterable[Tensor], *, low: float, high: float
) -> tuple[int, NDArray[np.float32]]:
    """Returns the number of magnitudes above a bracket, and the magnitudes inside it."""
    num_above = 0
    inside = []
    scratch = np.empty(0, np.float32)
    for tensor in tensors:
        if tensor.is_cuda:
            magnitudes = tensor.abs().flatten()
            num_above += int((magnitudes > high).sum())
            kept = magnitudes[(magnitudes >= low) & (magnitudes <= high)]
            inside.append(kept.cpu().numpy())
        else:  # on the CPU numpy compares and selects five times as fast as torch
            if tensor.numel() > len(scratch):
                scratch = np.empty(tensor.numel(), np.float32)
            values = np.abs(tensor.numpy().reshape(-1), out=scratch[: tensor.numel()])
            above, within = values > high, values >= low
            num_above += int(np.count_nonzero(above))
            inside.append(values[np.logical_xor(within, above, out=within)])
    return num_above, np.concatenate(inside)

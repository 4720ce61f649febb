"""DELLA: drop entries at random, small ones more often, elect signs, merge the rest."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.operators.dare import MASK_ENTRIES, digest_of
from merge.parameters.sparse import LEAST_CHANCE
from merge.weight import Weight, total

if TYPE_CHECKING:
    from collections.abc import Iterator

    from merge.parameters.sparse import DellaParams
    from merge.protocols import Recipe


def combine(weight: Weight, *, recipe: Recipe[DellaParams, None]) -> Tensor:
    """Returns the base plus the scaled consensus of the pruned task vectors.

    The elected sign of an entry is the sign of the sum of its pruned values; where these cancel
    exactly, the base stays. Without election all values are merged, and the mean is over all
    experts.

    Shapes: that of the weight.
    Source: Deep 2024, section 3.
    Scope: row of a matrix, or of a kernel flattened to a matrix; a vector is one row.
    """
    merge = _elected if recipe.params.elect else _plain
    merged = torch.empty(weight.num_entries, device=weight.device)
    for block, vectors in pruned_blocks(weight, recipe=recipe):
        consensus = merge(vectors, is_mean=recipe.params.consensus == "mean", like=block)
        merged[block.span] = block.base() + recipe.params.scaling * consensus
    return merged.view(weight.shape)


def pruned_blocks(
    weight: Weight, *, recipe: Recipe[DellaParams, None]
) -> Iterator[tuple[Weight, Iterator[Tensor]]]:
    """Yields blocks of whole rows, each with every expert's pruned task vector, one at a time."""
    for block in _blocks_of_rows(weight):
        pruned = partial(prune, block, num_columns=_num_columns(weight), recipe=recipe)
        yield block, map(pruned, range(weight.num_experts))


def prune(
    block: Weight, index: int, *, num_columns: int, recipe: Recipe[DellaParams, None]
) -> Tensor:
    """Returns one expert's task vector in some rows, thinned by rank and rescaled.

    The probability of keeping an entry rises in equal steps from the least magnitude of its row to
    the greatest. A kept entry is divided by its probability. Random numbers belong to ranks, not to
    positions. They are drawn on the CPU and depend on the seed, the expert's position, the tensor's
    name and the position of the rows in it. Of two equal magnitudes the earlier has the lower rank.

    Shapes: that of the block, which consists of whole rows.
    Source: Deep 2024, section 3.1, MAGPRUNE. The paper's steps are epsilon / n. The authors' code
        and this one take epsilon / (n - 1), so that the mean probability is the density.
    """
    vector = block.task_vector(index).view(-1, num_columns)
    order = _ascending(vector)
    assert block.span is not None
    number = block.span.start // _block_entries(num_columns)
    digest = digest_of(block.name, block=number, expert=index, seed=recipe.seed)
    factors = _factors(vector.shape, digest=digest, params=recipe.params).to(block.device)
    scattered = torch.empty_like(vector).scatter_(1, order, factors)
    return vector.mul_(scattered).flatten()


def _factors(shape: torch.Size, *, digest: bytes, params: DellaParams) -> Tensor:
    """Returns the factor of each rank: zero, or one divided by its probability of being kept.

    Shapes: (rows, columns), on the CPU.
    """
    chances = _chances(shape[1], params=params)
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest[:4], "big"))  # torch uses 32 bits
    draws = torch.rand(shape, generator=generator).clamp_(min=LEAST_CHANCE)
    return draws.lt_(chances).div_(chances)


def _ascending(vectors: Tensor) -> Tensor:
    """Returns the columns of each row from the least magnitude to the greatest, stably.

    On the CPU, magnitude and column are sorted as one integer, in a seventh of the time of a stable
    argsort. Non-negative floats have the order of their bits.

    Shapes: (rows, columns) in and out.
    """
    if vectors.is_cuda:
        return vectors.abs().argsort(dim=1, stable=True)
    keys = vectors.abs().view(torch.int32).to(torch.int64).bitwise_left_shift_(32)
    keys += torch.arange(vectors.shape[1])
    keys.numpy().sort(axis=1)
    return keys.bitwise_and_(0xFFFFFFFF)


def _chances(num_columns: int, *, params: DellaParams) -> Tensor:
    """Returns the probability of keeping each rank, from the least magnitude to the greatest.

    The window narrows where it would leave [0, 1], so that the mean stays the density. Where it
    begins at 0, the least magnitude of a row is always dropped.
    """
    half = params.half_window if num_columns > 1 else 0.0
    chances = torch.linspace(params.density - half, params.density + half, num_columns)
    return chances.clamp_(min=LEAST_CHANCE, max=1)


def _num_columns(weight: Weight) -> int:
    return weight.num_entries // weight.shape[0] if len(weight.shape) > 1 else weight.num_entries


def _block_entries(num_columns: int) -> int:
    return num_columns * max(1, MASK_ENTRIES // num_columns)


def _blocks_of_rows(weight: Weight) -> Iterator[Weight]:
    step = _block_entries(_num_columns(weight))
    for start in range(0, weight.num_entries, step):
        stop = min(start + step, weight.num_entries)
        yield replace(weight, span=slice(start, stop))


def _plain(vectors: Iterator[Tensor], *, is_mean: bool, like: Weight) -> Tensor:
    merged = total(vectors)
    return merged / like.num_experts if is_mean else merged


def _elected(vectors: Iterator[Tensor], *, is_mean: bool, like: Weight) -> Tensor:
    """Returns the sum or mean of the values with the elected sign, in one pass over the vectors."""
    positive, negative, num_positive, num_negative = (
        torch.zeros(like.num_entries, device=like.device) for _ in range(4)
    )
    for vector in vectors:
        positive += vector.clamp(min=0)
        negative += vector.clamp(max=0)
        if is_mean:  # floats, because torch is slow at adding bools to floats
            vector.sign_()
            num_positive += vector.clamp(min=0)
            num_negative -= vector.clamp_(max=0)
        del vector  # else it stays alive while the next vector is made
    is_positive = (positive + negative).gt_(0)
    is_negative = (positive + negative).lt_(0)
    merged = positive.mul_(is_positive).add_(negative.mul_(is_negative))
    if not is_mean:
        return merged
    num_elected = num_positive.mul_(is_positive).add_(num_negative.mul_(is_negative))
    return merged.div_(num_elected.clamp_(min=1))

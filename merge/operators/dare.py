"""DARE: drop entries of the task vectors at random, rescale the rest, add."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.weight import BLOCK_ENTRIES, Weight, by_block, total

if TYPE_CHECKING:
    from merge.method import Recipe
    from merge.parameters.sparse import DareParams

MASK_ENTRIES = 1 << 18
"""Entries that one draw covers. Part of what a seed means: masks would differ with another."""
assert MASK_ENTRIES == BLOCK_ENTRIES, "masks are drawn block by block"


def combine(weight: Weight, *, recipe: Recipe[DareParams, None]) -> Tensor:
    """Returns the base plus the scaled sum of the randomly thinned task vectors.

    Shapes: that of the weight.
    Source: Yu 2023, section 3.2, with task arithmetic. Kept entries are divided by the density, not
        by what preserves the L1 norm as mergekit does.
    Scope: tensor.
    """
    return by_block(weight, partial(_add_thinned, recipe=recipe))


def _add_thinned(block: Weight, *, recipe: Recipe[DareParams, None]) -> Tensor:
    params = recipe.params
    thinned = (
        thin(block, index, density=params.density, rescale=params.rescale, seed=recipe.seed)
        for index in range(block.num_experts)
    )
    return block.base() + params.scaling * total(thinned)


def thin(weight: Weight, index: int, *, density: float, rescale: bool, seed: int) -> Tensor:
    """Returns one expert's task vector with each entry kept by chance `density`, the others zero.

    The mask is a function of the seed, the expert's position, the tensor's name and the place in it
    alone: neither the order in which tensors are merged nor what the other experts are changes it.
    It is drawn on the CPU, so that every device gets the same mask.

    Args:
        weight: A tensor, or one of its blocks.
        index: The expert.
        density: Chance of an entry to be kept.
        rescale: Divides what is kept by the density.
        seed: Of the merge.

    Shapes: that of the weight.
    Scope: entry.
    """
    if weight.span is None:
        return by_block(
            weight, partial(thin, index=index, density=density, rescale=rescale, seed=seed)
        )
    block = weight.span.start // MASK_ENTRIES
    generator = generator_of(weight.name, block=block, expert=index, seed=seed)
    mask = torch.rand(weight.shape, generator=generator).lt_(density).to(weight.device)
    thinned = weight.task_vector(index).mul_(mask)  # selecting takes sixteen times as long
    return thinned.div_(density) if rescale else thinned


def generator_of(name: str, *, block: int, expert: int, seed: int) -> torch.Generator:
    """Returns the random numbers for one block of one tensor of one expert, always the same."""
    # torch's CPU generator uses 32 bits of its seed: among the 6,000 masks of 20 experts with 300
    # blocks two share a stream with a chance of one in 240, which correlates two blocks and does no
    # other harm.
    place = f"{seed}/{expert}/{name}/{block}" if block else f"{seed}/{expert}/{name}"
    digest = sha256(place.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))

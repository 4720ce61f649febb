"""DARE: drop entries of the task vectors at random, rescale the rest, add."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from merge.weight import Weight, total

if TYPE_CHECKING:
    from merge.method import Recipe
    from merge.params import DareParams


def combine(weight: Weight, *, recipe: Recipe[DareParams, None]) -> Tensor:
    """Returns the base plus the scaled sum of the randomly thinned task vectors.

    Shapes: that of the weight.
    Source: Yu 2023, section 3.2, with task arithmetic. Kept entries are divided by the density, not
        by what preserves the L1 norm as mergekit does.
    Scope: tensor.
    """
    params = recipe.params
    thinned = (
        thin(weight, index, density=params.density, rescale=params.rescale, seed=recipe.seed)
        for index in range(weight.num_experts)
    )
    return weight.base() + params.scaling * total(thinned)


def thin(weight: Weight, index: int, *, density: float, rescale: bool, seed: int) -> Tensor:
    """Returns one expert's task vector with each entry kept by chance `density`, the others zero.

    The mask is a function of the seed, the expert's position and the tensor's name alone: neither
    the order in which tensors are merged nor what the other experts are changes it. It is drawn on
    the CPU, so that every device gets the same mask.

    Shapes: that of the weight.
    Scope: entry.
    """
    vector = weight.task_vector(index)
    generator = torch.Generator().manual_seed(_mask_seed(weight.name, expert=index, seed=seed))
    kept = torch.rand(vector.shape, generator=generator) < density
    thinned = torch.where(kept.to(vector.device), vector, 0.0)
    return thinned / density if rescale else thinned


def _mask_seed(name: str, *, expert: int, seed: int) -> int:
    # torch's CPU generator uses 32 bits of its seed: among the 3,000 masks of 20 experts with 150
    # tensors two share a stream with a chance of one in a thousand, which correlates two tensors
    # and does no other harm.
    digest = sha256(f"{seed}/{expert}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big")

"""DARE: drop entries of the task vectors at random, rescale the rest, add."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

from merge.weight import BLOCK_ENTRIES, Weight, by_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from merge.parameters.sparse import DareParams
    from merge.protocols import Recipe

MASK_ENTRIES = 1 << 18
"""Entries that one draw covers. Part of what a seed means: masks would differ with another."""
_DRAWS = 8
"""Draws of 8 bits in a random number of 64."""
_NUM_VALUES = 1 << 8
assert MASK_ENTRIES == BLOCK_ENTRIES, "masks are drawn block by block"


def combine(weight: Weight, *, recipe: Recipe[DareParams, None]) -> Tensor:
    """Returns the base plus the scaled sum of the randomly thinned task vectors.

    Shapes: that of the weight.
    Source: Yu 2023, section 3.2, with task arithmetic. Kept entries are divided by the density, not
        by what preserves the L1 norm as mergekit does.
    Scope: tensor.
    """
    size = min(weight.num_entries, BLOCK_ENTRIES)
    places = [torch.empty(size, device=weight.device) for _ in range(3)]
    return by_block(weight, partial(_add_thinned, places=places, recipe=recipe))


def _add_thinned(
    block: Weight, *, places: Sequence[Tensor], recipe: Recipe[DareParams, None]
) -> Tensor:
    """Merges a block, in places that serve one block after another.

    Taking them anew for every block took 6 to 10 % more CPU time, in page faults.
    """
    params, unchecked, base = recipe.params, block.unchecked(), block.base()
    sum_, vector, factors = (place[: block.num_entries] for place in places)
    sum_.zero_()
    for index in range(block.num_experts):
        torch.sub(unchecked.expert(index), base, out=vector)
        factors.copy_(_kept(block, index, density=params.density, seed=recipe.seed))
        sum_.addcmul_(vector, factors)
    block.check_sum(sum_)
    scaling = params.scaling / params.density if params.rescale else params.scaling
    return sum_.mul_(scaling).add_(base)


def thin(
    weight: Weight,
    index: int,
    out: Tensor | None = None,
    *,
    density: float,
    rescale: bool,
    seed: int,
) -> Tensor:
    """Returns one expert's task vector with each entry kept by chance `density`, the others zero.

    The mask is a function of the seed, the expert's position, the tensor's name and the place in it
    alone: neither the order in which tensors are merged nor what the other experts are changes it.
    It is drawn on the CPU, so that every device gets the same mask. Dropping multiplies by zero, so
    that NaN and inf in a dropped entry still show.

    Args:
        weight: A tensor, or one of its blocks.
        index: The expert.
        out: Takes the result of a block, in place of a new tensor.
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
    thinned = weight.task_vector(index, out)
    thinned *= _kept(weight, index, density=density, seed=seed).to(thinned)
    return thinned.div_(density) if rescale else thinned


def _kept(block: Weight, index: int, *, density: float, seed: int) -> Tensor:
    """Returns the mask of one block of one expert on the CPU, bytes of 0 or 1.

    Multiplying by them as floats costs a third of what torch takes to multiply by flags.
    """
    assert block.span is not None
    place = block.span.start // MASK_ENTRIES
    digest = digest_of(block.name, block=place, expert=index, seed=seed)
    flags = bernoulli(block.num_entries, chance=density, digest=digest)
    return torch.from_numpy(flags.view(np.uint8))


def bernoulli(num: int, *, chance: float, digest: bytes) -> NDArray[np.bool_]:
    """Returns flags, each true by the chance, exactly; the same digest gives the same.

    8 random bits an entry decide, and a float for the one in 256 that they leave open, if any: 0.4
    to 0.8 ns in place of the 5 of a float for every entry.

    Shapes: (num,).
    """
    bits = np.random.SFC64(_Words(digest))  # type: ignore[arg-type]  # its types lack it
    draws = bits.random_raw(-(-num // _DRAWS)).view(np.uint8)[:num]
    whole, rest = divmod(chance * _NUM_VALUES, 1.0)
    if whole == _NUM_VALUES:
        return np.ones(num, dtype=np.bool_)
    flags: NDArray[np.bool_] = draws < np.uint8(whole)
    if not rest:
        return flags
    open_ = np.flatnonzero(draws == np.uint8(whole))
    flags[open_] = np.random.Generator(bits).random(len(open_)) < rest
    return flags


def digest_of(name: str, *, block: int, expert: int, seed: int) -> bytes:
    """Returns 32 random bytes of one block of one tensor of one expert, always the same."""
    place = f"{seed}/{expert}/{name}/{block}" if block else f"{seed}/{expert}/{name}"
    return sha256(place.encode()).digest()


class _Words(ISeedSequence):
    """Seeds a generator with a digest's bits as they are.

    Numpy's own seed sequence, which is there to spread the bits of poor seeds, takes ten times as
    long: 0.2 of 1.9 CPU-seconds for 20 ResNet-50.
    """

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(self, n_words: int, dtype: DTypeLike = np.uint32) -> NDArray[Any]:
        return np.frombuffer(self._digest, dtype)[:n_words]

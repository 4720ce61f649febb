"""Finds pairs of tensors whose product is the weight, which no method merges one by one.

A LoRA adapter is two matrices, and a pruned weight of torch is a tensor and its mask. The mean of
the products is not the product of the means: of two adapters, it also has the products of one
adapter's matrix with the other's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from merge.errors import UNNAMED, Names, UnmergeableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from merge.weight import State

_PAIRS = (
    (re.compile(r"(^|\.)(lora_)A(?=\.|$)"), r"\1\2B"),
    (re.compile(r"(^|\.|_)(lora_)down(?=\.|$)"), r"\1\2up"),
    (re.compile(r"_orig$"), "_mask"),
)
"""The name of the first factor, and its replacement in the name of the second: peft's and
diffusers' adapters, and `torch.nn.utils.prune`."""
REMEDY = (
    "they are factors of weights, and the product of merged factors is another one than the merge "
    "of the products: write dense weights first (peft's `merge_and_unload`, torch's `prune.remove`)"
)


def check_factors(base: State, *, experts: Sequence[State], names: Names = UNNAMED) -> None:
    """Checks that of two factors of one weight, at least one is equal in all models.

    Every method that adds is then right.

    Args:
        base: The base.
        experts: Experts with the names of the base.
        names: Names for the error.

    Raises:
        UnmergeableError: Both factors of a weight differ; the message has the first five pairs.
    """
    pairs = [
        f"{first} and {second}"
        for first, second in _pairs(base)
        if _differs(first, base, experts=experts) and _differs(second, base, experts=experts)
    ]
    if pairs:
        raise UnmergeableError({names.base: pairs}, remedy=REMEDY)


def _pairs(state: State) -> Iterator[tuple[str, str]]:
    for name in state:
        for first, second in _PAIRS:
            partner = first.sub(second, name)
            if partner != name and partner in state:
                yield name, partner


def _differs(name: str, base: State, *, experts: Sequence[State]) -> bool:
    return not all(torch.equal(base[name], expert[name]) for expert in experts)

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from merge.errors import Names, UnmergeableError
from merge.merge import MergeOptions, merge
from merge.parameters.linear import AverageParams

NAMES = Names(base="b.safetensors", experts=["x.safetensors", "y.safetensors"])


def merged(first: str, second: str, *, seeds: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Averages models of two factors, each drawn from a seed of its own."""
    base, *experts = (
        {first: torch.full((2, 2), float(one)), second: torch.full((2, 2), float(two))}
        for one, two in seeds
    )
    options = MergeOptions(params=AverageParams())
    return dict(merge(base, experts, options=options, names=NAMES))


PAIRS = [
    ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"),
    ("q.lora_A.default.weight", "q.lora_B.default.weight"),
    ("unet_q.lora_down.weight", "unet_q.lora_up.weight"),
    ("conv.weight_orig", "conv.weight_mask"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_factors_that_both_differ_are_refused(first: str, second: str) -> None:
    """The product of two means also has the products of one expert's factor with another's."""
    with pytest.raises(UnmergeableError, match="factors of weights") as raised:
        merged(first, second, seeds=[(0, 0), (1, 2), (3, 4)])
    assert f"b.safetensors: {first} and {second}" in str(raised.value)
    assert "merge_and_unload" in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_factors_of_which_one_is_equal_are_merged(first: str, second: str) -> None:
    """The mean of the products then is the product with the mean."""
    found = merged(first, second, seeds=[(3, 0), (3, 2), (3, 4)])
    assert torch.equal(found[first] @ found[second], torch.full((2, 2), 18.0))
    found = merged(first, second, seeds=[(0, 3), (2, 3), (4, 3)])
    assert torch.equal(found[first] @ found[second], torch.full((2, 2), 18.0))


def test_names_that_are_no_pair_are_merged() -> None:
    """A mask or a matrix without its partner is a tensor like any other."""
    assert merged("weight_mask", "lora_A.weight", seeds=[(0, 0), (1, 2), (3, 4)])

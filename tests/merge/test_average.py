from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from merge.merge import MergeOptions, merge
from merge.parameters.linear import AverageParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def test_average_is_the_mean_of_the_experts(
    tensors: Callable[..., dict[str, Tensor]],
    merged_lists: Callable[..., dict[str, list[float]]],
) -> None:
    """(1 + 2 + 6) / 3 = 3 and (0 - 3 + 0) / 3 = -1, whatever the base."""
    experts = [tensors(w=[1, 0]), tensors(w=[2, -3]), tensors(w=[6, 0])]
    assert merged_lists(tensors(w=[100, 100]), experts, params=AverageParams()) == {"w": [3, -1]}


@pytest.mark.parametrize("num_experts", [1, 2, 3, 7, 20])
def test_equal_experts_are_a_fixed_point_of_averaging(num_experts: int) -> None:
    """The mean of equal experts is the expert, up to the rounding of the sum."""
    generator = torch.Generator().manual_seed(0)
    base, expert = (torch.randn(1000, generator=generator) for _ in range(2))
    merged = dict(
        merge(
            {"w": base}, [{"w": expert}] * num_experts, options=MergeOptions(params=AverageParams())
        )
    )
    torch.testing.assert_close(merged["w"], expert, rtol=1e-6, atol=0)


def test_two_experts_average_to_the_same_bits_in_either_order() -> None:
    """The addition of two numbers commutes exactly."""
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(1000, generator=generator)} for _ in range(3)]
    base, first, second = states
    there = dict(merge(base, [first, second], options=MergeOptions(params=AverageParams())))
    back = dict(merge(base, [second, first], options=MergeOptions(params=AverageParams())))
    assert torch.equal(there["w"], back["w"])

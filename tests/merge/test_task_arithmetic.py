from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from merge.merge import MergeOptions, merge
from merge.parameters.linear import AverageParams, TaskArithmeticParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def test_the_scaled_sum_of_task_vectors_is_added_to_the_base(
    tensors: Callable[..., dict[str, Tensor]],
    merged_lists: Callable[..., dict[str, list[float]]],
) -> None:
    """Task vectors (2, 0) and (4, -8) sum to (6, -8); half of it on the base (1, 1) is (4, -3)."""
    experts = [tensors(w=[3, 1]), tensors(w=[5, -7])]
    params = TaskArithmeticParams(scaling=0.5)
    assert merged_lists(tensors(w=[1, 1]), experts, params=params) == {"w": [4, -3]}


def test_scaling_one_over_the_number_of_experts_is_the_average() -> None:
    """The base plus a quarter of four task vectors is the mean of the four experts."""
    generator = torch.Generator().manual_seed(1)
    base, *experts = ({"w": torch.randn(100, generator=generator)} for _ in range(5))
    arithmetic = dict(
        merge(base, experts, options=MergeOptions(params=TaskArithmeticParams(scaling=0.25)))
    )
    average = dict(merge(base, experts, options=MergeOptions(params=AverageParams())))
    torch.testing.assert_close(arithmetic["w"], average["w"])

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from merge.combinations import combination, slopes
from merge.weight import BLOCK_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from merge.weight import Weight


def test_a_combination_adds_each_task_vector_times_its_coefficient(
    weight: Callable[..., Weight],
) -> None:
    """By hand: 1 + 2 (3 - 1) - 1 (5 - 1) = 1, and 2 + 2 (2 - 2) - (0 - 2) = 4."""
    given = weight([3.0, 2.0], [5.0, 0.0], base=[1.0, 2.0])
    assert combination(given, coefficients=[2.0, -1.0]).tolist() == [1.0, 4.0]


def test_slopes_are_inner_products_with_the_task_vectors(weight: Callable[..., Weight]) -> None:
    """By hand: (10, 1) times (2, 0) and (4, -2)."""
    given = weight([3.0, 2.0], [5.0, 0.0], base=[1.0, 2.0])
    assert slopes(given, torch.tensor([10.0, 1.0])).tolist() == [20.0, 38.0]


def test_slopes_add_up_over_blocks(weight: Callable[..., Weight]) -> None:
    """A tensor of ones with two blocks and a rest sums to its number of entries."""
    num = 2 * BLOCK_ENTRIES + 3
    assert slopes(weight([1.0] * num), torch.ones(num)).tolist() == [num]


def test_slopes_follow_the_gradient_in_any_memory_layout(weight: Callable[..., Weight]) -> None:
    """A kernel's gradient may be channels-last although its task vector is not."""
    given = weight(torch.arange(24.0).reshape(2, 3, 2, 2).tolist(), base=[0.0])
    given.base_state["w"].resize_(2, 3, 2, 2).zero_()
    gradient = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    last = gradient.to(memory_format=torch.channels_last)
    assert slopes(given, last).tolist() == slopes(given, gradient).tolist()

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from merge.merge import MergeOptions, merge
from merge.parameters.linear import TaskArithmeticParams
from merge.parameters.sparse import ConsensusTaParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]


@pytest.mark.parametrize(
    ("min_tasks", "expected"),
    [
        (1, [12, 11.5, 12, 10.5]),
        (2, [10, 11.5, 10, 10.5]),
        (3, [10, 11.5, 10, 10]),
        (4, [10, 10, 10, 10]),
    ],
)
def test_entries_are_kept_by_the_number_of_their_users(
    tensors: Make, merged_lists: Merge, min_tasks: int, expected: list[float]
) -> None:
    """The sums 4 3 4 1 have 1, 3, 1 and 2 users; half of each kept sum is added to 10.

    Entries and half of the others' sums: 3 1 0 and 0.5 1.5 2, one user. 1 1 1 and 1 1 1, three
    users, since equal is enough. 0 0 4 and 2 2 0, one. 2.5 -1.5 0 and 0.75 1.25 0.5, two.
    """
    experts = [
        tensors(w=[13, 11, 10, 12.5]),
        tensors(w=[11, 11, 10, 8.5]),
        tensors(w=[10, 11, 14, 10]),
    ]
    params = ConsensusTaParams(tall_lambda=0.5, min_tasks=min_tasks, scaling=0.5)
    merged = merged_lists(tensors(w=[10] * 4), experts, params=params)
    assert merged["w"] == expected


def test_when_every_entry_has_users_it_is_task_arithmetic() -> None:
    """At tall_lambda 0 every task uses all entries, so the bits are those of the sum."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(50, generator=generator)} for _ in range(4))
    params = ConsensusTaParams(tall_lambda=0, min_tasks=3, scaling=0.7)
    consensus = dict(merge(base, experts, options=MergeOptions(params=params)))
    arithmetic = dict(
        merge(base, experts, options=MergeOptions(params=TaskArithmeticParams(scaling=0.7)))
    )
    assert torch.equal(consensus["w"], arithmetic["w"])


def test_an_entry_that_one_task_alone_uses_is_dropped(tensors: Make, merged_lists: Merge) -> None:
    """Task vectors without a common entry have no consensus, so the base stays."""
    base = tensors(w=[1, 1])
    experts = [tensors(w=[5, 1]), tensors(w=[1, -9])]
    assert merged_lists(base, experts, params=ConsensusTaParams()) == {"w": [1, 1]}

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.merge import MergeOptions, merge
from merge.operators.breadcrumbs import band
from merge.parameters.linear import TaskArithmeticParams
from merge.parameters.sparse import BreadcrumbsParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merge.weight import Weight

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]

TEN = [1, -2, 3, -4, 5, -6, 7, -8, 9, -10]


def test_both_ends_are_dropped_by_hand(tensors: Make, merged_lists: Merge) -> None:
    """The top fifth of ten entries, 10 and 9, is dropped; 8 to 4 are kept and scaled by 1/2."""
    params = BreadcrumbsParams(density=0.5, gamma=0.2, scaling=0.5)
    merged = merged_lists(
        tensors(w=[1] * 10), [tensors(w=[1 + entry for entry in TEN])], params=params
    )
    assert merged["w"] == [1, 1, 1, -1, 3.5, -2, 4.5, -3, 1, 1]


def test_every_expert_and_tensor_has_its_own_band(tensors: Make, merged_lists: Merge) -> None:
    """The largest of four entries is dropped and two are kept: (3 2), (-30 20); (7 -6), (1 1)."""
    experts = [
        tensors(a=[4, 3, 2, 1], b=[5, 7, -6, 8]),
        tensors(a=[10, 20, -30, 40], b=[1, 1, 0, 3]),
    ]
    params = BreadcrumbsParams(density=0.5, gamma=0.25, scaling=1)
    zeros = tensors(a=[0] * 4, b=[0] * 4)
    merged = merged_lists(zeros, experts, params=params)
    assert merged == {"a": [0, 23, -28, 0], "b": [1, 8, -6, 0]}


def test_the_density_comes_before_the_outliers(weight: Callable[..., Weight]) -> None:
    """Nine of ten entries are kept, so only one of two outliers can be dropped."""
    params = BreadcrumbsParams(density=0.9, gamma=0.2)
    assert band(weight(TEN), 0, params=params) == (1, 9)


@pytest.mark.parametrize(
    ("vector", "kept"),
    [([2, -2, 2, 1, 5], [2, -2, 2, 0, 0]), ([5, -5, 1, 2, 3], [5, -5, 0, 0, 0])],
)
def test_entries_that_tie_with_an_end_are_all_kept(
    tensors: Make, merged_lists: Merge, vector: list[float], kept: list[float]
) -> None:
    """One of five entries is dropped and one kept, with all entries equal to it."""
    params = BreadcrumbsParams(density=0.2, gamma=0.2, scaling=1)
    merged = merged_lists(tensors(w=[0] * 5), [tensors(w=vector)], params=params)
    assert merged["w"] == kept


def test_a_single_entry_is_never_an_outlier(tensors: Make, merged_lists: Merge) -> None:
    """At least one entry of every tensor is kept, for all fractions."""
    params = BreadcrumbsParams(density=0.1, gamma=1, scaling=1)
    assert merged_lists(tensors(w=[0]), [tensors(w=[-3])], params=params) == {"w": [-3]}


def test_density_one_is_task_arithmetic() -> None:
    """Nothing is dropped at either end, so the bits are those of task arithmetic."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(50, generator=generator)} for _ in range(4))
    crumbs = dict(
        merge(base, experts, options=MergeOptions(params=BreadcrumbsParams(density=1, gamma=0.5)))
    )
    arithmetic = dict(
        merge(base, experts, options=MergeOptions(params=TaskArithmeticParams(scaling=0.3)))
    )
    assert torch.equal(crumbs["w"], arithmetic["w"])


@given(
    size=st.integers(1, 300),
    density=st.floats(min_value=0.01, max_value=1),
    gamma=st.floats(min_value=0, max_value=1),
)
def test_the_number_kept_is_that_of_the_density(size: int, density: float, gamma: float) -> None:
    """Without ties, the rounded density is kept (at least one entry), for every gamma."""
    vector = torch.randperm(size, generator=torch.Generator().manual_seed(0)) + 1.0
    params = BreadcrumbsParams(density=density, gamma=gamma, scaling=1)
    merged = dict(
        merge({"w": torch.zeros(size)}, [{"w": vector}], options=MergeOptions(params=params))
    )["w"]
    assert int(merged.count_nonzero()) == max(1, round(density * size))

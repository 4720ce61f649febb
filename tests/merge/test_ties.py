from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.merge import MergeOptions, merge
from merge.parameters.sparse import TiesParams
from merge.sign_election import open_election
from merge.weight import Weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]

EIGHTHS = st.integers(-80, 80).map(lambda number: number / 8)
"""Sums of a few of these are exact in float32, so that equality can be of bits."""


def three_experts(tensors: Make) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Task vectors (5 -4 1 | 3 .5), (-2 -6 .1 | 7 1), (-8 0 0 | 9 0) on the base (1 1 1 | 2 2)."""
    base = tensors(a=[1, 1, 1], b=[2, 2])
    vectors = [
        tensors(a=[5, -4, 1], b=[3, 0.5]),
        tensors(a=[-2, -6, 0.125], b=[7, 1]),
        tensors(a=[-8, 0, 0], b=[9, 0]),
    ]
    return base, [{name: base[name] + vector[name] for name in base} for vector in vectors]


@pytest.mark.parametrize(
    ("consensus", "expected"),
    [("sum", {"a": [-3, -4, 1], "b": [10, 2]}), ("mean", {"a": [-3, -1.5, 1], "b": [6, 2]})],
)
def test_ties_over_the_model_by_hand(
    tensors: Make,
    merged_lists: Merge,
    consensus: Literal["sum", "mean"],
    expected: dict[str, list[float]],
) -> None:
    """Two of five entries are kept in each: (5 -4 0 | 0 0), (0 -6 0 | 7 0), (-8 0 0 | 9 0).

    Sums (-3 -10 0 | 16 0) elect (- - 0 | + 0). Agreeing: -8; -4 and -6; 7 and 9. Their sums are
    (-8 -10 0 | 16 0), their means (-8 -5 0 | 8 0); half of that is added to (1 1 1 | 2 2).
    """
    base, experts = three_experts(tensors)
    params = TiesParams(density=0.4, scaling=0.5, consensus=consensus)
    assert merged_lists(base, experts, params=params) == expected


def test_ties_over_each_tensor_by_hand(tensors: Make, merged_lists: Merge) -> None:
    """One of three and one of two entries are kept: (5 0 0 | 3 0), (0 -6 0 | 7 0), (-8 0 0 | 9 0).

    Sums (-3 -6 0 | 19 0); agreeing sums (-8 -6 0 | 19 0); half of that on (1 1 1 | 2 2).
    """
    base, experts = three_experts(tensors)
    params = TiesParams(density=0.4, scaling=0.5, scope="tensor")
    assert merged_lists(base, experts, params=params) == {"a": [-3, -2, 1], "b": [11.5, 2]}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([2, 3, 1], [-2, 3, 1], [2, 6, 2]),
        ([2, -3, -1], [-2, -3, -1], [-2, -6, -2]),
        ([2, -3, 1], [-2, -3, 1], [0, -6, 2]),
    ],
)
def test_where_values_cancel_the_majority_sign_decides(
    tensors: Make,
    merged_lists: Merge,
    first: list[float],
    second: list[float],
    expected: list[float],
) -> None:
    """2 and -2 cancel; two positive sums elect 2, two negative sums -2, one of each zero."""
    params = TiesParams(density=1, scaling=1)
    experts = [tensors(w=first), tensors(w=second)]
    assert merged_lists(tensors(w=[0, 0, 0]), experts, params=params) == {"w": expected}


@pytest.mark.parametrize(("scope", "expected"), [("model", [-2]), ("tensor", [0])])
def test_the_majority_is_that_of_the_scope(
    tensors: Make, merged_lists: Merge, scope: Literal["model", "tensor"], expected: list[float]
) -> None:
    """2 and -2 cancel in a; b is negative, which counts only over the model."""
    experts = [tensors(a=[2], b=[-1, -1]), tensors(a=[-2], b=[-1, -1])]
    params = TiesParams(density=1, scaling=1, scope=scope)
    merged = merged_lists(tensors(a=[0], b=[0, 0]), experts, params=params)
    assert merged["a"] == expected


def test_entries_that_tie_with_the_last_kept_one_are_all_kept(
    tensors: Make, merged_lists: Merge
) -> None:
    """A quarter of four is one entry; all three entries of magnitude 2 tie and are kept."""
    params = TiesParams(density=0.25, scaling=1)
    experts = [tensors(w=[2, -2, 2, 1])]
    assert merged_lists(tensors(w=[0, 0, 0, 0]), experts, params=params) == {"w": [2, -2, 2, 0]}


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_a_density_below_one_entry_keeps_one(
    tensors: Make, merged_lists: Merge, scope: Literal["model", "tensor"]
) -> None:
    """A tenth of three entries is below one, and the largest is kept."""
    params = TiesParams(density=0.1, scaling=1, scope=scope)
    experts = [tensors(w=[1, -3, 2])]
    assert merged_lists(tensors(w=[0, 0, 0]), experts, params=params) == {"w": [0, -3, 0]}


def test_a_single_entry_merges(tensors: Make, merged_lists: Merge) -> None:
    """A tensor with one entry is its own threshold: 1 + 0.5 * 2 = 2."""
    params = TiesParams(density=0.2, scaling=0.5)
    assert merged_lists(tensors(w=[1]), [tensors(w=[3])], params=params) == {"w": [2]}


@pytest.mark.parametrize("consensus", ["sum", "mean"])
def test_experts_equal_to_the_base_merge_to_it(
    tensors: Make, merged_lists: Merge, consensus: Literal["sum", "mean"]
) -> None:
    """Task vectors of zeros have the threshold zero and change nothing."""
    base = tensors(w=[1, -2, 0.25])
    merged = merged_lists(base, [base, base], params=TiesParams(consensus=consensus))
    assert merged == {"w": [1, -2, 0.25]}


@given(
    vectors=st.integers(1, 12).flatmap(
        lambda size: st.lists(
            st.lists(EIGHTHS, min_size=size, max_size=size), min_size=2, max_size=4
        )
    ),
    density=st.floats(min_value=0.05, max_value=1),
    consensus=st.sampled_from(["sum", "mean"]),
)
def test_the_order_of_experts_is_irrelevant_where_sums_are_exact(
    vectors: list[list[float]], density: float, consensus: Literal["sum", "mean"]
) -> None:
    """Reversing the experts gives the same bits, which rounding alone could change."""
    base = {"w": torch.zeros(len(vectors[0]))}
    experts = [{"w": torch.tensor(vector)} for vector in vectors]
    params = TiesParams(density=density, scaling=1, consensus=consensus)
    there = dict(merge(base, experts, options=MergeOptions(params=params)))
    back = dict(merge(base, experts[::-1], options=MergeOptions(params=params)))
    assert torch.equal(there["w"], back["w"])


def test_thresholds_equal_those_of_a_sorted_flat_copy() -> None:
    """The streamed threshold over 20,000 entries in three tensors equals the sorted one."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (64, 3, 5, 5), "b": (64,), "c": (100, 150)}
    base, *experts = (
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(3)
    )
    weights = [Weight(name=name, base_state=base, expert_states=experts) for name in base]
    election = open_election(weights, density=0.2, vector_of=Weight.task_vector)
    for expert, threshold in zip(experts, election.thresholds, strict=True):
        flat = torch.cat([(expert[name] - base[name]).flatten() for name in base]).abs()
        assert threshold == float(flat.sort(descending=True).values[round(0.2 * len(flat)) - 1])

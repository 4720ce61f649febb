from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.merge import MergeOptions, merge
from merge.parameters.sparse import MagMaxParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]


def test_the_largest_magnitude_wins_by_hand(tensors: Make, merged_lists: Merge) -> None:
    """The largest of 1 -2 0, -3 0 1 and 0.5 0 0.5 are -2, -3 and 0.5; half is added to ones."""
    experts = [tensors(w=[2, -2, 1.5]), tensors(w=[-1, 1, 1]), tensors(w=[1, 2, 1.5])]
    merged = merged_lists(tensors(w=[1, 1, 1]), experts, params=MagMaxParams(scaling=0.5))
    assert merged["w"] == [0, -0.5, 1.25]


def test_the_first_of_equal_magnitudes_wins(tensors: Make, merged_lists: Merge) -> None:
    """-3 and 3 tie, so the order of the experts decides."""
    experts = [tensors(w=[1, -3]), tensors(w=[-3, 3]), tensors(w=[3, 3])]
    params = MagMaxParams(scaling=1)
    assert merged_lists(tensors(w=[0, 0]), experts, params=params) == {"w": [-3, -3]}
    assert merged_lists(tensors(w=[0, 0]), experts[::-1], params=params) == {"w": [3, 3]}


@given(
    vectors=st.integers(1, 8).flatmap(
        lambda size: st.lists(
            st.lists(st.floats(-1e6, 1e6, width=32), min_size=size, max_size=size),
            min_size=1,
            max_size=5,
        )
    )
)
def test_every_entry_is_one_experts(vectors: list[list[float]]) -> None:
    """The merged entry is the first of greatest magnitude, with its bits, for any vectors."""
    experts = [{"w": torch.tensor(vector)} for vector in vectors]
    base = {"w": torch.zeros(len(vectors[0]))}
    merged = dict(merge(base, experts, options=MergeOptions(params=MagMaxParams(scaling=1))))["w"]
    assert merged.tolist() == [max(column, key=abs) for column in zip(*vectors, strict=True)]

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.errors import NonFiniteInputError, NonFiniteMergeError
from merge.merge import MergeOptions, merge, merge_groups
from merge.parameters.sparse import DareTiesParams, TiesParams
from merge.weight import BLOCK_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from merge.parameters.method_params import MethodParams

SMALL = st.integers(-2, 2).map(float)
"""Few distinct numbers, so that many sums cancel and many majorities tie."""


def merged_deferred(
    base: dict[str, Tensor],
    experts: Sequence[dict[str, Tensor]],
    *,
    params: MethodParams,
    groups: Sequence[Sequence[int]] | None = None,
    num_threads: int = 1,
) -> dict[str, tuple[Tensor, ...]]:
    options = MergeOptions(params=params, may_defer=True, num_threads=num_threads)
    return dict(
        merge_groups(base, experts, groups=groups or [range(len(experts))], options=options)
    )


@given(
    states=st.lists(st.lists(SMALL, min_size=9, max_size=9), min_size=3, max_size=5),
    density=st.sampled_from([0.3, 0.6, 1.0]),
    consensus=st.sampled_from(["sum", "mean"]),
    scope=st.sampled_from(["model", "tensor"]),
)
def test_deferring_entries_changes_no_bit(
    states: list[list[float]],
    density: float,
    consensus: Literal["sum", "mean"],
    scope: Literal["model", "tensor"],
) -> None:
    """Holds with and without a majority, over the model and over each tensor."""
    base, *experts = (
        {"a": torch.tensor(values[:4]), "b": torch.tensor(values[4:])} for values in states
    )
    params = TiesParams(density=density, scaling=0.3, consensus=consensus, scope=scope)
    at_once = dict(merge(base, experts, options=MergeOptions(params=params)))
    for name, (tensor,) in merged_deferred(base, experts, params=params).items():
        assert torch.equal(tensor, at_once[name])


@pytest.mark.parametrize("params", [TiesParams(density=0.5), DareTiesParams(trim_density=0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deferred_entries_are_right_across_blocks_groups_threads_and_dtypes(
    params: MethodParams, dtype: torch.dtype
) -> None:
    """Each group has its own majority, and positions count from the tensor's start."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = (
        {
            name: torch.randint(-3, 4, (num,), generator=generator).to(dtype)
            for name, num in (("a", 40), ("b", 2 * BLOCK_ENTRIES + 5))
        }
        for _ in range(5)
    )
    groups = [[0, 1], [3, 2, 1, 0], [2, 3]]
    deferred = merged_deferred(base, experts, params=params, groups=groups, num_threads=2)
    options = MergeOptions(params=params)
    for name, tensors in merge_groups(base, experts, groups=groups, options=options):
        assert all(map(torch.equal, tensors, deferred[name]))


def test_a_deferred_entry_is_written_into_the_tensor_that_was_yielded() -> None:
    """2 and -2 cancel in the first tensor; the second one, negative throughout, decides."""
    base = {"a": torch.zeros(1), "b": torch.zeros(2)}
    experts = [{"a": torch.tensor([each]), "b": -torch.ones(2)} for each in (2.0, -2.0)]
    options = MergeOptions(params=TiesParams(density=1, scaling=1), may_defer=True)
    merged = merge_groups(base, experts, groups=[[0, 1]], options=options)
    _, (first,) = next(merged)
    assert first.tolist() == [0]
    assert [name for name, _ in merged] == ["b"]
    assert first.tolist() == [-2]


def test_a_deferred_entry_beyond_the_dtype_is_an_error() -> None:
    """60,000 and -60,000 cancel; ten times the elected one is inf in float16."""
    base = {name: torch.zeros(1, dtype=torch.float16) for name in "ab"}
    experts = [
        {name: torch.tensor([value], dtype=torch.float16) for name, value in (("a", a), ("b", 1))}
        for a in (60_000, -60_000)
    ]
    with pytest.raises(NonFiniteMergeError, match="a merged by ties"):
        merged_deferred(base, experts, params=TiesParams(density=1, scaling=10))


def test_a_tensor_that_is_not_finite_is_named_by_the_pass_that_counts_the_majority() -> None:
    """An entry that cancels starts a pass over all tensors, and b holds NaN."""
    base = {"a": torch.zeros(1), "b": torch.zeros(2)}
    experts = [{"a": torch.tensor([each]), "b": torch.ones(2)} for each in (2.0, -2.0)]
    experts[1]["b"][1] = float("nan")
    with pytest.raises(NonFiniteInputError, match="b of expert 2"):
        dict(merge(base, experts, options=MergeOptions(params=TiesParams(density=1))))

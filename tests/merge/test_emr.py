from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.merge import MergeOptions, merge, merge_tasks
from merge.parameters.per_task import EmrParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]

EIGHTHS = st.integers(-80, 80).map(lambda number: number / 8)
VECTORS = st.integers(1, 12).flatmap(
    lambda size: st.lists(st.lists(EIGHTHS, min_size=size, max_size=size), min_size=2, max_size=4)
)
OPTIONS = MergeOptions(params=EmrParams())


def two_experts(tensors: Make) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Task vectors (4 -2 4.5 | 0.75) and (-1 -6 -4.5 | 5) on the base (1 1 1 | 2)."""
    base = tensors(a=[1, 1, 1], b=[2])
    vectors = [tensors(a=[4, -2, 4.5], b=[0.75]), tensors(a=[-1, -6, -4.5], b=[5])]
    return base, [{name: base[name] + vector[name] for name in base} for vector in vectors]


def for_task(
    base: dict[str, Tensor], experts: list[dict[str, Tensor]], task: int
) -> dict[str, list[float]]:
    merged = merge_tasks(base, experts, tasks=[task], options=OPTIONS)
    return {name: tensor.tolist() for name, (tensor,) in merged}


def test_the_unified_task_vector_by_hand(tensors: Make, merged_lists: Merge) -> None:
    """Sums (3 -8 0 | 5.75) elect (+ - . | +); the largest such values are (4 -6 0 | 5)."""
    base, experts = two_experts(tensors)
    assert merged_lists(base, experts, params=EmrParams()) == {"a": [5, -5, 1], "b": [7]}


def test_the_models_of_both_tasks_by_hand(tensors: Make) -> None:
    """The masks are (1 1 0 | 1) and (0 1 0 | 1), the rescalers 11.25 / 15 and 16.5 / 11."""
    base, experts = two_experts(tensors)
    assert for_task(base, experts, 0) == {"a": [4, -3.5, 1], "b": [5.75]}
    assert for_task(base, experts, 1) == {"a": [1, -8, 1], "b": [9.5]}


def test_one_expert_is_its_own_model(tensors: Make) -> None:
    """The expert's signs are elected, and its rescaler is one."""
    base, experts = two_experts(tensors)
    assert for_task(base, experts[:1], 0) == {
        name: tensor.tolist() for name, tensor in experts[0].items()
    }


def test_the_expert_equal_to_the_base_leaves_its_task_the_base(tensors: Make) -> None:
    """A task vector of zeros has an empty mask and nothing to rescale."""
    base, experts = two_experts(tensors)
    assert for_task(base, [base, experts[0]], 0) == {
        name: tensor.tolist() for name, tensor in base.items()
    }


def test_values_whose_product_underflows_are_masked_by_their_signs(tensors: Make) -> None:
    """1e-30 squared is zero in float32, but the signs agree."""
    tiny = tensors(w=[1e-30, -1e-30])
    assert for_task(tensors(w=[0, 0]), [tiny, tiny], 1)["w"] == tiny["w"].tolist()


@given(vectors=VECTORS)
def test_every_task_keeps_the_magnitude_of_its_task_vector(vectors: list[list[float]]) -> None:
    """The rescaler restores the L1 norm; a model with an empty mask is the base."""
    base = {"w": torch.zeros(len(vectors[0]))}
    experts = [{"w": torch.tensor(vector)} for vector in vectors]
    tasks = range(len(experts))
    ((_, models),) = merge_tasks(base, experts, tasks=tasks, options=OPTIONS)
    for expert, model in zip(experts, models, strict=True):
        if model.any():
            torch.testing.assert_close(model.abs().sum(), expert["w"].abs().sum())


@given(vectors=VECTORS)
def test_the_order_of_experts_is_irrelevant_where_sums_are_exact(
    vectors: list[list[float]],
) -> None:
    """Reversing the experts gives the same bits."""
    base = {"w": torch.zeros(len(vectors[0]))}
    experts = [{"w": torch.tensor(vector)} for vector in vectors]
    there = dict(merge(base, experts, options=MergeOptions(params=EmrParams())))
    back = dict(merge(base, experts[::-1], options=MergeOptions(params=EmrParams())))
    assert torch.equal(there["w"], back["w"])

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from merge.merge import MergeOptions, merge_tasks
from merge.parameters.per_task import TallMaskParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]


def of_both_tasks(tensors: Make, *, tall_lambda: float) -> list[list[float]]:
    """Merges task vectors (4 -2 1) and (1 -2 -1), whose sum is (5 -4 0), on the base (1 1 1)."""
    experts = [tensors(w=[5, -1, 2]), tensors(w=[2, -1, 0])]
    options = MergeOptions(params=TallMaskParams(tall_lambda=tall_lambda))
    ((_, models),) = merge_tasks(tensors(w=[1, 1, 1]), experts, tasks=[0, 1], options=options)
    return [model.tolist() for model in models]


@pytest.mark.parametrize(
    ("tall_lambda", "second"), [(0.5, [1, -3, 1]), (0.25, [6, -3, 1]), (2, [1, 1, 1])]
)
def test_masks_by_hand(tensors: Make, tall_lambda: float, second: list[float]) -> None:
    """The second task's entries 1, -2 and -1 meet 4, -2 and 1 of the first; the sum is (5 -4 0).

    With 1/2 the task keeps the entries of equal magnitude, with 1/4 also the first, with 2 none.
    """
    assert of_both_tasks(tensors, tall_lambda=tall_lambda)[1] == second


def test_lambda_zero_keeps_the_whole_sum_for_every_task(tensors: Make) -> None:
    """Every magnitude is at least zero."""
    assert of_both_tasks(tensors, tall_lambda=0) == [[6, -3, 1], [6, -3, 1]]


@pytest.mark.parametrize("tall_lambda", [0, 0.4, 10])
def test_one_expert_is_its_own_model(tensors: Make, tall_lambda: float) -> None:
    """No other task adds anything."""
    options = MergeOptions(params=TallMaskParams(tall_lambda=tall_lambda))
    expert = tensors(w=[3, 1, -2])
    merged = merge_tasks(tensors(w=[1, 1, 1]), [expert], tasks=[0], options=options)
    ((_, (model,)),) = merged
    assert model.tolist() == [3, 1, -2]


def test_without_masks_it_is_task_arithmetic(tensors: Make, merged_lists: Merge) -> None:
    """Half of the sum (5 -4 0) on the base (1 1 1)."""
    experts = [tensors(w=[5, -1, 2]), tensors(w=[2, -1, 0])]
    params = TallMaskParams(scaling=0.5)
    merged = merged_lists(tensors(w=[1, 1, 1]), experts, params=params)
    assert merged == {"w": [3.5, -1, 1]}

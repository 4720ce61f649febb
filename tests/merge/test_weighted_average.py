from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from merge.errors import MergeError
from merge.merge import MergeOptions, merge
from merge.parameters.linear import WeightedAverageParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]


def test_weights_are_shares_by_hand(tensors: Make, merged_lists: Merge) -> None:
    """Weights 3 and 1 are shares 3/4 and 1/4: 0.75 * (1 8) + 0.25 * (3 -4) = (1.5 5)."""
    experts = [tensors(w=[1, 8]), tensors(w=[3, -4])]
    params = WeightedAverageParams(weights=(3, 1))
    assert merged_lists(tensors(w=[9, 9]), experts, params=params) == {"w": [1.5, 5]}


def test_a_negative_weight_moves_away_from_an_expert(tensors: Make, merged_lists: Merge) -> None:
    """Weights 3 and -1 are shares 3/2 and -1/2: 1.5 * (1 8) - 0.5 * (3 -4) = (0 14)."""
    experts = [tensors(w=[1, 8]), tensors(w=[3, -4])]
    params = WeightedAverageParams(weights=(3, -1))
    assert merged_lists(tensors(w=[9, 9]), experts, params=params) == {"w": [0, 14]}


def test_only_the_ratios_of_weights_count(tensors: Make, merged_lists: Merge) -> None:
    """Doubled weights give the same shares."""
    experts = [tensors(w=[1, 0.3]), tensors(w=[3, 0.7])]
    small, large = (WeightedAverageParams(weights=weights) for weights in [(0.5, 1.5), (1, 3)])
    base = tensors(w=[0, 0])
    there = merged_lists(base, experts, params=small)
    assert there == merged_lists(base, experts, params=large)


def test_without_weights_experts_count_alike(tensors: Make, merged_lists: Merge) -> None:
    """The mean of 1, 2 and 6 is 3, up to the rounding of a third."""
    experts = [tensors(w=[1]), tensors(w=[2]), tensors(w=[6])]
    merged = merged_lists(tensors(w=[0]), experts, params=WeightedAverageParams())
    assert merged["w"] == pytest.approx([3])


def test_an_expert_without_weight_leaves_no_trace(tensors: Make, merged_lists: Merge) -> None:
    """With all weight on one expert, the result has that expert's bits."""
    experts = [tensors(w=[0.1, -7]), tensors(w=[1e6, 3])]
    params = WeightedAverageParams(weights=(5, 0))
    merged = merged_lists(tensors(w=[0, 0]), experts, params=params)
    assert merged["w"] == experts[0]["w"].tolist()


@pytest.mark.parametrize("weights", [(1,), (1, 1, 1)])
def test_another_number_of_weights_than_of_experts_is_refused(
    tensors: Make, weights: tuple[float, ...]
) -> None:
    """The call itself raises an error with both numbers."""
    state = tensors(w=[1])
    with pytest.raises(MergeError, match=rf"exactly {len(weights)} experts .*, not 2"):
        merge(
            state,
            [state, state],
            options=MergeOptions(params=WeightedAverageParams(weights=weights)),
        )

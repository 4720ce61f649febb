from __future__ import annotations

import pytest
import torch
from torch import Tensor

from merge.alignment.permutations import Axis, Specification
from merge.alignment.weight_matching import _best, match_weights
from merge.errors import NonFiniteInputError

HIDDEN = Specification(
    axes={"first": (Axis(dim=0, group="hidden"),), "second": (Axis(dim=1, group="hidden"),)},
    sizes={"hidden": 3},
)
"""An MLP of one hidden layer with three units."""


def matched(reference: dict[str, Tensor], other: dict[str, Tensor]) -> list[int]:
    permutations = match_weights(reference, other, specification=HIDDEN, seed=0)
    return permutations["hidden"].tolist()


def state(first: list[list[float]], second: list[list[float]]) -> dict[str, Tensor]:
    return {"first": torch.tensor(first), "second": torch.tensor(second)}


def test_all_tensors_that_touch_a_group_vote_by_hand() -> None:
    """Similarities (first + second): units 0-1 8, 1-2 6 + 1, 2-0 4; all other pairs 0."""
    reference = state([[2, 0], [0, 3], [0, 0]], [[0, 1, 2]])
    other = state([[0, 0], [4, 0], [0, 2]], [[2, 0, 1]])
    assert matched(reference, other) == [1, 2, 0]


def test_the_best_assignment_is_not_the_greedy_one() -> None:
    """The greedy pairs gain 9 + 0 + 0, the crossed pairs 8 + 8 + 0."""
    similarity = torch.tensor([[9.0, 8.0, 0.0], [8.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    best = _best(similarity.double(), present=torch.arange(3))
    assert best.tolist() == [1, 0, 2]


@pytest.mark.parametrize("present", [[0, 1, 2], [2, 0, 1], [1, 0, 2]])
def test_ties_keep_the_present_order(present: list[int]) -> None:
    """Equal units have six best assignments; the present one stays."""
    permutation = torch.tensor(present)
    assert _best(torch.ones(3, 3, dtype=torch.float64), present=permutation) is permutation


@pytest.mark.parametrize("present", [[0, 1], [1, 0]])
def test_ties_among_rivals_keep_the_present_order(present: list[int]) -> None:
    """Both units prefer the first one, and either order gains 2 + 1."""
    permutation = torch.tensor(present)
    similarity = torch.tensor([[2.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    assert _best(similarity, present=permutation) is permutation


def test_a_gain_of_rounding_keeps_the_present_order() -> None:
    """Dead and equal units differ only in the last bits of a sum."""
    similarity = torch.ones(2, 2, dtype=torch.float64)
    similarity[0, 1] += 1e-13
    present = torch.arange(2)
    assert _best(similarity, present=present) is present
    similarity[0, 1] += 1e-6
    assert _best(similarity, present=present).tolist() == [1, 0]


def test_running_statistics_do_not_vote() -> None:
    """The weights favour the present order, and statistics a thousand times as large do not."""
    names = ["weight", "running_mean", "running_var"]
    specification = Specification(
        axes={name: (Axis(dim=0, group="g"),) for name in names}, sizes={"g": 2}
    )
    vector = torch.tensor([1.0, 2.0])
    reference = {"weight": vector, "running_mean": vector * 1000, "running_var": vector * 1000}
    other = {**reference, "running_mean": -vector * 1000, "running_var": vector.flip(0) * 1000}
    permutations = match_weights(reference, other, specification=specification, seed=0)
    assert permutations["g"].tolist() == [0, 1]


def test_a_weight_that_is_not_finite_names_the_tensor() -> None:
    """The channels of a diverged expert cannot be matched."""
    reference = state([[1, 0], [0, 1], [0, 0]], [[0, 0, 0]])
    other = {**reference, "second": torch.tensor([[float("nan"), 0, 0]])}
    with pytest.raises(NonFiniteInputError, match="second of expert 1"):
        matched(reference, other)

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from merge.errors import MergeError
from merge.merge import MergeOptions, merge
from merge.parameters.linear import SlerpParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]


@pytest.mark.parametrize(
    ("first", "t", "expected"),
    [
        ([1, 0], 1 / 2, [math.sqrt(1 / 2), math.sqrt(1 / 2)]),
        ([1, 0], 1 / 3, [math.sqrt(3) / 2, 1 / 2]),
        ([2, 0], 1 / 2, [math.sqrt(2), math.sqrt(1 / 2)]),
    ],
)
def test_a_right_angle_by_hand(
    tensors: Make, merged_lists: Merge, first: list[float], t: float, expected: list[float]
) -> None:
    """From (1 0) to (0 1) the point at t is (cos, sin) of t x 90 degrees; lengths multiply."""
    experts = [tensors(w=first), tensors(w=[0, 1])]
    merged = merged_lists(tensors(w=[5, 5]), experts, params=SlerpParams(t=t))
    assert merged["w"] == pytest.approx(expected)


def test_the_ends_are_the_experts(tensors: Make, merged_lists: Merge) -> None:
    """At 0 the result is the first expert, at 1 the second, in the group's order."""
    experts = [tensors(w=[3, -1]), tensors(w=[0.5, 2])]
    base = tensors(w=[0, 0])
    for t, expert in enumerate(experts):
        merged = merged_lists(base, experts, params=SlerpParams(t=t))
        assert merged["w"] == pytest.approx(expert["w"].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2], [3, 6], [1.5, 3]), ([4, 0], [-4, 0], [2, 0]), ([0, 0], [4, 8], [1, 2])],
)
def test_without_an_arc_the_line_is_taken(
    tensors: Make,
    merged_lists: Merge,
    first: list[float],
    second: list[float],
    expected: list[float],
) -> None:
    """Parallel, opposite and zero tensors give the point a quarter along the line."""
    experts = [tensors(w=first), tensors(w=second)]
    merged = merged_lists(tensors(w=[0, 0]), experts, params=SlerpParams(t=0.25))
    assert merged["w"] == pytest.approx(expected)


@pytest.mark.parametrize(("cosine", "is_arc"), [(0.9994, True), (0.9996, False)])
def test_the_line_begins_at_the_documented_cosine(cosine: float, *, is_arc: bool) -> None:
    """Between vectors of length 1 the arc keeps the length, and the line shortens it."""
    experts = [
        {"w": torch.tensor([math.cos(angle), math.sin(angle)])} for angle in (0, math.acos(cosine))
    ]
    merged = dict(merge(experts[0], experts, options=MergeOptions(params=SlerpParams())))[
        "w"
    ].double()
    assert (float(merged.norm()) == pytest.approx(1, abs=1e-6)) is is_arc


def test_the_angle_is_that_of_a_whole_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of many blocks and two dimensions is one vector with one angle."""
    monkeypatch.setattr("merge.weight.BLOCK_ENTRIES", 7)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(10, 10, generator=generator) for _ in range(2))
    cosine = float((first * second).sum() / (first.norm() * second.norm()))
    angle = math.acos(cosine)
    expected = (math.sin(0.7 * angle) * first + math.sin(0.3 * angle) * second) / math.sin(angle)
    states = [{"w": first}, {"w": second}]
    merged = dict(
        merge({"w": torch.zeros(10, 10)}, states, options=MergeOptions(params=SlerpParams(t=0.3)))
    )
    torch.testing.assert_close(merged["w"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_experts", [1, 3])
def test_another_number_of_experts_than_two_is_refused(tensors: Make, num_experts: int) -> None:
    """The call itself raises the error."""
    state = tensors(w=[1])
    with pytest.raises(MergeError, match=rf"exactly 2 experts, not {num_experts}"):
        merge(state, [state] * num_experts, options=MergeOptions(params=SlerpParams()))

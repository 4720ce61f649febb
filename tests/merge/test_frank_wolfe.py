from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.parameters.with_data import FrankWolfeParams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    MakeProbe = Callable[..., Any]

PAPER = FrankWolfeParams(step_scale=1, start="average", iterations=1)


def margins(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Logistic regression on the joined weights; class 0 wins if the sum is positive."""
    difference = images @ torch.cat([state["a"], state["b"]])
    return torch.stack([difference, torch.zeros_like(difference)], dim=1)


def state(a: float, b: float) -> dict[str, Tensor]:
    return {"a": torch.tensor([float(a)]), "b": torch.tensor([float(b)])}


def toward(images: Tensor, *, params: FrankWolfeParams, toy_probe: MakeProbe) -> list[float]:
    """Merges experts (1 0), (0 3) and (-5 -5) on images of class 0."""
    experts = [state(1, 0), state(0, 3), state(-5, -5)]
    probe = toy_probe(margins, images=[images], labels=[torch.zeros(len(images)).long()])
    merged = dict(merge(state(0, 0), experts, options=MergeOptions(params=params, probe=probe)))
    return [float(merged["a"]), float(merged["b"])]


@pytest.mark.parametrize(
    ("image", "granularity", "expected"),
    [
        # The gradient is the image times a negative number: <g, theta_i> is least where the
        # expert's product with the image is largest, of 1 and 1.5 and -7.5 for instance.
        ([1.0, 0.5], "model", [0.0, 3.0]),
        ([1.0, 0.3], "model", [1.0, 0.0]),
        ([1.0, 0.3], "tensor", [1.0, 3.0]),
        ([-1.0, 0.5], "tensor", [-5.0, 3.0]),
        ([-1.0, -0.3], "model", [-5.0, -5.0]),
    ],
)
def test_the_first_move_of_the_paper_ends_at_the_right_vertex(
    toy_probe: MakeProbe, image: list[float], granularity: str, expected: list[float]
) -> None:
    """A step of 2 / (0 + 2) = 1 drops the start, and only the best expert remains."""
    params = FrankWolfeParams(step_scale=1, start="average", iterations=1, granularity=granularity)
    found = toward(torch.tensor([image]), params=params, toy_probe=toy_probe)
    assert found == pytest.approx(expected)


def test_steps_shrink_as_two_over_t_plus_two(toy_probe: MakeProbe) -> None:
    """By hand, moving to (0 3): 1 - b/3 shrinks by (1 - 0.1)(1 - 0.2/3)(1 - 0.1/2)."""
    params = FrankWolfeParams(iterations=3, start="average")
    found = toward(torch.tensor([[0.0, 1.0]]), params=params, toy_probe=toy_probe)
    left = 0.9 * (1 - 0.2 / 3) * 0.95
    mean = (0 + 3 - 5) / 3
    assert found[1] == pytest.approx(3 + left * (mean - 3))


def test_the_start_is_task_arithmetic_by_default(toy_probe: MakeProbe) -> None:
    """By hand: 0.5 (1 + 0 - 5) and 0.5 (0 + 3 - 5), then a tenth of the way to (0 3)."""
    params = FrankWolfeParams(iterations=1, scaling=0.5)
    found = toward(torch.tensor([[0.0, 1.0]]), params=params, toy_probe=toy_probe)
    assert found == pytest.approx([0.9 * -2.0, 0.9 * -1.0 + 0.1 * 3])


def test_equal_experts_go_to_the_first(toy_probe: MakeProbe) -> None:
    """If all products are equal, the order of the experts decides."""
    images = torch.zeros(2, 2)
    assert toward(images, params=PAPER, toy_probe=toy_probe) == pytest.approx([1.0, 0.0])


def test_moves_approach_the_best_mixture(toy_probe: MakeProbe) -> None:
    """The loss is convex, and a grid finds its least value among mixtures of the experts.

    After 200 of the paper's moves the remaining gap is below C / (t + 2).
    """
    images = torch.tensor([[1.0, -0.2], [-0.4, 1.0], [-2.0, -1.0]])

    def loss(a: float, b: float) -> float:
        logits = margins(state(a, b), images)
        return float(torch.nn.functional.cross_entropy(logits, torch.zeros(3).long()))

    tenths = [(i / 40, j / 40) for i in range(41) for j in range(41 - i)]
    best = min(loss(i - 5 * (1 - i - j), 3 * j - 5 * (1 - i - j)) for i, j in tenths)
    losses = []
    for iterations in (1, 10, 200):
        params = FrankWolfeParams(step_scale=1, start="average", iterations=iterations)
        losses.append(loss(*toward(images, params=params, toy_probe=toy_probe)))
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] == pytest.approx(best, abs=0.01)

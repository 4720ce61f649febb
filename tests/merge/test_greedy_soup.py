from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.parameters.with_data import GreedySoupParams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    MakeProbe = Callable[..., Any]


def nearest(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """A model that is right on images within 1 of w; the right label is 0."""
    distance = (images - state["w"]).abs()
    return torch.cat([1 - distance, torch.zeros_like(distance)], dim=1)


def soup(*experts: float, images: list[list[float]], toy_probe: MakeProbe) -> float:
    """Merges experts of one number, scored by how many images are within 1 of them."""
    rows = [torch.tensor(each)[:, None] for each in images]
    labels = [torch.zeros(len(each), dtype=torch.int64) for each in rows]
    probe = toy_probe(nearest, images=rows, labels=labels)
    states = [{"w": torch.tensor([each])} for each in experts]
    base = {"w": torch.zeros(1)}
    merged = dict(
        merge(base, states, options=MergeOptions(params=GreedySoupParams(images=10), probe=probe))
    )
    return float(merged["w"])


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        # Images at 0, 0.5, 1 and 5: alone, 0.5 gets three right, 5 one, and 9 none.
        ((5.0, 0.5), 0.5),
        ((0.5, 0.7), 0.6),
        ((0.5, 9.0), 0.5),
        # 0.9 (three right) is first of 0.9, 0.1, -0.5; then 0.5 and 0.1667 both keep all three.
        ((0.9, 0.1, -0.5), 0.5 / 3),
        # 0.5 first; with -3 it would be at -1.25, with 1.5 it is at 1.
        ((-3.0, 0.5, 1.5), 1.0),
    ],
)
def test_experts_stay_out_that_would_lower_the_accuracy(
    toy_probe: MakeProbe, experts: tuple[float, ...], expected: float
) -> None:
    """The expected soups are counted by hand, on one task."""
    found = soup(*experts, images=[[0.0, 0.5, 1.0, 5.0]], toy_probe=toy_probe)
    assert found == pytest.approx(expected, abs=1e-6)


def test_tasks_count_the_same_whatever_their_images(toy_probe: MakeProbe) -> None:
    """Tasks of 5, 1 and 1 images: the second expert has 2/3 and stays alone."""
    images = [[0.0] * 5, [10.0], [10.0]]
    assert soup(0.0, 10.0, images=images, toy_probe=toy_probe) == 10.0


def test_of_equals_the_groups_order_decides(toy_probe: MakeProbe) -> None:
    """Each expert is right on one task and their mean on none, so the first stays."""
    images = [[0.0], [10.0]]
    assert soup(0.0, 10.0, images=images, toy_probe=toy_probe) == 0.0
    assert soup(10.0, 0.0, images=images, toy_probe=toy_probe) == 10.0


def test_a_soup_of_one_is_the_expert_itself(toy_probe: MakeProbe) -> None:
    """The bits are the expert's, without a subtraction of the base."""
    assert soup(0.1, 9.7, images=[[0.0]], toy_probe=toy_probe) == float(torch.tensor(0.1))

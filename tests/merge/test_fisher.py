from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.parameters.with_data import FisherParams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    MakeProbe = Callable[..., Any]


def logistic(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Logistic regression, whose logits differ by the image times w."""
    difference = images @ state["w"]
    return torch.stack([difference, torch.zeros_like(difference)], dim=1)


def chance(difference: float) -> float:
    return 1 / (1 + 2.718281828459045**-difference)


def two_experts() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    base = {"w": torch.zeros(2)}
    return base, [{"w": torch.tensor([1.0, 0.5])}, {"w": torch.tensor([-2.0, 0.0])}]


IMAGES = [torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])]


def fishers_by_hand() -> list[list[float]]:
    """Returns the mean over the images of p (1 - p) x^2 for each expert."""
    at = [chance(2.0), chance(3.0)]  # 1 * 1 + 2 * 0.5 and 3 * 1
    variances = [p * (1 - p) for p in at]
    first = [(variances[0] + 9 * variances[1]) / 2, 4 * variances[0] / 2]
    p = chance(-2.0)
    return [first, [p * (1 - p) / 2, p * (1 - p) / 2]]


def merged_by(params: FisherParams, *, toy_probe: MakeProbe) -> list[float]:
    base, experts = two_experts()
    labels = [torch.zeros(2, dtype=torch.int64)] * 2
    probe = toy_probe(logistic, images=IMAGES, labels=labels)
    merged: list[float] = dict(
        merge(base, experts, options=MergeOptions(params=params, probe=probe))
    )["w"].tolist()
    return merged


def test_entries_are_weighted_by_the_fisher_of_a_logistic_regression(
    toy_probe: MakeProbe,
) -> None:
    """By hand the Fisher information is p (1 - p) x^2, without labels."""
    first, second = fishers_by_hand()
    expected = [
        (first[0] * 1.0 + second[0] * -2.0) / (first[0] + second[0]),
        (first[1] * 0.5 + second[1] * 0.0) / (first[1] + second[1]),
    ]
    merged = merged_by(FisherParams(normalize=False), toy_probe=toy_probe)
    assert merged == pytest.approx(expected, rel=1e-5)


def test_normalized_fishers_have_norm_1_over_all_weights(toy_probe: MakeProbe) -> None:
    """An expert with certain predictions, whose Fisher information is small, keeps its weight."""
    first, second = fishers_by_hand()
    first, second = (
        [entry / (each[0] ** 2 + each[1] ** 2) ** 0.5 for entry in each] for each in (first, second)
    )
    expected = [
        (first[0] * 1.0 + second[0] * -2.0) / (first[0] + second[0]),
        (first[1] * 0.5 + second[1] * 0.0) / (first[1] + second[1]),
    ]
    merged = merged_by(FisherParams(), toy_probe=toy_probe)
    assert merged == pytest.approx(expected, rel=1e-5)


def test_a_floor_above_all_fishers_gives_the_average(toy_probe: MakeProbe) -> None:
    """After scaling to norm 1 no entry exceeds the floor of 1."""
    merged = merged_by(FisherParams(floor=1.0), toy_probe=toy_probe)
    assert merged == pytest.approx([-0.5, 0.25])


def test_entries_that_no_expert_needs_are_averaged(toy_probe: MakeProbe) -> None:
    """The second input is zero on every image; without the floor this would be 0 / 0."""
    base, experts = two_experts()
    images = [each * torch.tensor([1.0, 0.0]) for each in IMAGES]
    labels = [torch.zeros(2, dtype=torch.int64)] * 2
    probe = toy_probe(logistic, images=images, labels=labels)
    params = FisherParams(normalize=False)
    merged = dict(merge(base, experts, options=MergeOptions(params=params, probe=probe)))["w"]
    assert float(merged[1]) == pytest.approx(0.25)
    assert float(merged[0]) != pytest.approx(-0.5)


def test_only_as_many_images_are_read_as_asked(toy_probe: MakeProbe) -> None:
    """By hand, with only the first image: p (1 - p) x^2 for each expert."""
    (p, q), (v, w) = (chance(2.0), chance(-2.0)), (1.0, -2.0)
    expected = (p * (1 - p) * v + q * (1 - q) * w) / (p * (1 - p) + q * (1 - q))
    merged = merged_by(FisherParams(images=1, normalize=False), toy_probe=toy_probe)
    assert merged[0] == pytest.approx(expected, rel=1e-5)

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.functional import cosine_similarity

from merge.merge import MergeOptions, merge
from merge.parameters.linear import ModelStockParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from merge.parameters.linear import Angle

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]

THREE = [[1, 0], [0, 1], [2, 2]]
"""Angles of 90, 45 and 45 degrees; the mean vector is (1 1)."""


def cosines(vectors: list[Tensor]) -> Iterator[float]:
    for index, vector in enumerate(vectors):
        for other in vectors[:index]:
            yield float(cosine_similarity(vector.double(), other.double(), dim=0))


def test_two_experts_by_hand(tensors: Make, merged_lists: Merge) -> None:
    """(3 0) and (3 4) have cosine 0.6: t = 1.2 / 1.6 = 0.75, and (1 1) + 0.75 * (3 2)."""
    experts = [tensors(w=[4, 1]), tensors(w=[4, 5])]
    merged = merged_lists(tensors(w=[1, 1]), experts, params=ModelStockParams())
    assert merged["w"] == pytest.approx([3.25, 2.5])


@pytest.mark.parametrize(
    ("angle", "ratio"), [("degrees", 0.75), ("cosine", math.sqrt(2) / (2 * math.sqrt(2) / 3 + 1))]
)
def test_three_experts_by_hand(
    tensors: Make, merged_lists: Merge, angle: Angle, ratio: float
) -> None:
    """The mean angle is 60 degrees, so t = 1.5 / 2; the mean cosine is a third of root 2."""
    params = ModelStockParams(angle=angle)
    experts = [tensors(w=vector) for vector in THREE]
    merged = merged_lists(tensors(w=[0, 0]), experts, params=params)
    assert merged["w"] == pytest.approx([ratio, ratio])


@pytest.mark.parametrize("angle", ["cosine", "degrees"])
def test_each_tensor_has_its_own_ratio(tensors: Make, merged_lists: Merge, angle: Angle) -> None:
    """Orthogonal task vectors leave a at the base; parallel ones move b to their mean."""
    experts = [tensors(a=[2, 0], b=[1, 1]), tensors(a=[0, 2], b=[3, 3])]
    params = ModelStockParams(angle=angle)
    merged = merged_lists(tensors(a=[0, 0], b=[0, 0]), experts, params=params)
    assert merged["a"] == pytest.approx([0, 0], abs=1e-7)
    assert merged["b"] == pytest.approx([2, 2])


@pytest.mark.parametrize("angle", ["cosine", "degrees"])
def test_equal_experts_are_a_fixed_point(tensors: Make, merged_lists: Merge, angle: Angle) -> None:
    """Task vectors that agree have cosine 1 and t 1."""
    expert = tensors(w=[3, -1, 0.5])
    params = ModelStockParams(angle=angle)
    merged = merged_lists(tensors(w=[1, 1, 1]), [expert] * 3, params=params)
    assert merged["w"] == pytest.approx([3, -1, 0.5], rel=1e-6)


@pytest.mark.parametrize("angle", ["cosine", "degrees"])
@pytest.mark.parametrize("vectors", [[[1, 0], [-1, 0.5]], [[2.0], [-2.0]], [[1], [1], [-1]]])
def test_experts_that_disagree_give_the_base(
    tensors: Make, merged_lists: Merge, vectors: list[list[float]], angle: Angle
) -> None:
    """Below a cosine of zero the formula would lead away from the experts, without bound."""
    base = tensors(w=[0.5] * len(vectors[0]))
    experts = [{"w": base["w"] + torch.tensor(vector)} for vector in vectors]
    merged = merged_lists(base, experts, params=ModelStockParams(angle=angle))
    assert merged == {"w": base["w"].tolist()}


def test_a_task_vector_of_zeros_is_orthogonal_to_all(tensors: Make, merged_lists: Merge) -> None:
    """Cosines 1, 0 and 0 have the mean 1/3: t = 1 / (2/3 + 1) = 0.6, times the mean 4/3."""
    experts = [tensors(w=[2, 0]), tensors(w=[2, 0]), tensors(w=[0, 0])]
    merged = merged_lists(tensors(w=[0, 0]), experts, params=ModelStockParams())
    assert merged["w"] == pytest.approx([0.8, 0])


@pytest.mark.parametrize("angle", ["cosine", "degrees"])
def test_nearly_orthogonal_experts_are_measured_exactly(
    monkeypatch: pytest.MonkeyPatch, angle: Angle
) -> None:
    """Over many blocks the ratio is that of all pairs in float64, to seven digits."""
    monkeypatch.setattr("merge.weight.BLOCK_ENTRIES", 1 << 10)
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(20_000, generator=generator)
    vectors = [0.1 * shared + torch.randn(20_000, generator=generator) for _ in range(5)]
    pairs = list(cosines(vectors))
    cosine = sum(pairs) / 10
    if angle == "degrees":
        cosine = math.cos(sum(map(math.acos, pairs)) / 10)
    ratio = 5 * cosine / (4 * cosine + 1)
    experts = [{"w": vector} for vector in vectors]
    params = ModelStockParams(angle=angle)
    merged = dict(merge({"w": torch.zeros(20_000)}, experts, options=MergeOptions(params=params)))[
        "w"
    ]
    expected = ratio * sum(vectors) / 5
    torch.testing.assert_close(merged, expected, rtol=1e-6, atol=1e-7)

from __future__ import annotations

from math import exp, tanh
from typing import TYPE_CHECKING

import pytest
import torch

from merge.merge import MergeOptions, merge
from merge.parameters.sparse import PcbParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]


def merged_flat(vectors: Tensor, *, density: float, num_outliers: int) -> Tensor:
    """Merges the rows of a matrix in float64 by sorting, as the reference."""
    sizes = vectors.abs()
    ordered = sizes.sort(dim=1).values
    low, high = ordered[:, [num_outliers]], ordered[:, [-1 - num_outliers]]
    sizes = sizes.clamp(low, high)
    intra = (len(vectors) * ((sizes - low) / (high - low)) ** 2).exp()
    score = intra * (vectors * vectors.sum(dim=0)).tanh()
    num_kept = round(density * vectors.shape[1])
    least = score.sort(dim=1, descending=True).values[:, [num_kept - 1]]
    share = ((score - least) / (score.amax(dim=1, keepdim=True) - least)).clamp(min=0)
    total = (share * sizes * vectors.sign()).sum(dim=0)
    return torch.where(share.sum(dim=0) > 0, total / share.sum(dim=0), 0)


def test_two_experts_by_hand(tensors: Make, merged_lists: Merge) -> None:
    """(2 1 0) and (1 1 2), sums 3 2 2, positions 1 1/2 0 and 0 0 1; half of the mean on ones.

    The first expert scores e^2 tanh 6, e^(1/2) tanh 2 and 0. All scores are kept, so the last has
    weight 0. The second expert scores tanh 3, tanh 2 and e^2 tanh 4; its second weight is 0.
    """
    share = (tanh(3) - tanh(2)) / (exp(2) * tanh(4) - tanh(2))
    expected = [(2 + share) / (1 + share), 1, 2]
    experts = [tensors(w=[3, 2, 1]), tensors(w=[2, 2, 3])]
    params = PcbParams(density=1, scaling=0.5)
    merged = merged_lists(tensors(w=[1, 1, 1]), experts, params=params)
    assert merged["w"] == pytest.approx([1 + each / 2 for each in expected])


def test_the_best_scores_of_the_model_are_kept(tensors: Make, merged_lists: Merge) -> None:
    """Two of four entries in two tensors are kept, and the second best has weight 0."""
    experts = [tensors(a=[4, 3], b=[2, 1])]
    params = PcbParams(density=0.5, scaling=1)
    merged = merged_lists(tensors(a=[0, 0], b=[0, 0]), experts, params=params)
    assert merged == {"a": [4, 0], "b": [0, 0]}


def test_a_single_kept_entry_has_the_whole_weight(tensors: Make, merged_lists: Merge) -> None:
    """If least and greatest score are equal, the entry has weight 1."""
    params = PcbParams(density=0.1, scaling=1)
    experts = [tensors(w=[1, -4, 2])]
    assert merged_lists(tensors(w=[0, 0, 0]), experts, params=params) == {"w": [0, -4, 0]}


def test_an_entry_against_all_others_yields(tensors: Make, merged_lists: Merge) -> None:
    """-2 against a sum of 4 scores below zero and is not in the kept half."""
    experts = [tensors(w=[3, 1]), tensors(w=[3, 1]), tensors(w=[-2, 1])]
    params = PcbParams(density=0.5, scaling=1)
    merged = merged_lists(tensors(w=[0, 0]), experts, params=params)
    assert merged["w"] == pytest.approx([3, 1])


def test_experts_equal_to_the_base_merge_to_it(tensors: Make, merged_lists: Merge) -> None:
    """Task vectors of zeros have neither range nor scores and change nothing."""
    base = tensors(w=[1, -2, 0.25])
    assert merged_lists(base, [base, base], params=PcbParams()) == {"w": [1, -2, 0.25]}


@pytest.mark.parametrize("density", [0.1, 0.95])
@pytest.mark.parametrize("num_experts", [2, 7])
def test_the_streamed_merge_is_the_one_by_sorting(
    monkeypatch: pytest.MonkeyPatch, density: float, num_experts: int
) -> None:
    """The two agree over 30,000 entries in three tensors and many blocks, with negative scores.

    Three entries at either end, one ten-thousandth, are outliers and clamped.
    """
    monkeypatch.setattr("merge.weight.BLOCK_ENTRIES", 1 << 12)
    flat = torch.randn(num_experts, 30_000, generator=torch.Generator().manual_seed(0)) ** 3
    sizes = {"a": 20_000, "b": 9_990, "c": 10}
    experts = [named(row, sizes=list(sizes.values())) for row in flat]
    zeros = named(torch.zeros(30_000), sizes=list(sizes.values()))
    merged = dict(merge(zeros, experts, options=MergeOptions(params=PcbParams(density=density))))
    found = torch.cat(list(merged.values())).double()
    expected = merged_flat(flat.double(), density=density, num_outliers=3)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def named(flat: Tensor, *, sizes: Sequence[int]) -> dict[str, Tensor]:
    return dict(zip("abc", flat.split(list(sizes)), strict=True))


def test_a_hundred_experts_do_not_overflow() -> None:
    """exp(100) is beyond float32; large entries of equal experts merge to themselves."""
    vector = torch.randn(50, generator=torch.Generator().manual_seed(0))
    params = PcbParams(density=0.5)
    merged = dict(
        merge({"w": torch.zeros(50)}, [{"w": vector}] * 100, options=MergeOptions(params=params))
    )["w"]
    is_large = vector.abs() > 1
    assert int(is_large.sum()) > 10
    torch.testing.assert_close(merged[is_large], vector[is_large])

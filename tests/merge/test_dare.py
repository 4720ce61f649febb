from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
import torch

from merge.merge import MergeOptions, merge
from merge.operators.dare import bernoulli, thin
from merge.parameters.linear import TaskArithmeticParams
from merge.parameters.sparse import DareParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from merge.weight import Weight

ONES = [1.0] * 64
DIGEST = sha256(b"a mask").digest()
GOLDEN = [0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1]
"""The mask of seed 0, expert 0 and tensor w at density 1/2."""


def mask(weight: Weight, *, expert: int = 0, seed: int = 0, density: float = 0.5) -> list[float]:
    vector: list[float] = thin(weight, expert, density=density, rescale=False, seed=seed).tolist()
    return vector


def test_kept_entries_are_divided_by_the_density(weight: Callable[..., Weight]) -> None:
    """At density 1/4 every entry of a vector of ones is 0 or 4, and both occur."""
    thinned = thin(weight(ONES), 0, density=0.25, rescale=True, seed=0)
    assert set(thinned.tolist()) == {0.0, 4.0}


def test_without_rescaling_kept_entries_stay(weight: Callable[..., Weight]) -> None:
    """At density 1/4 every entry of a vector of ones is 0 or 1."""
    assert set(mask(weight(ONES), density=0.25)) == {0.0, 1.0}


def test_the_mask_of_a_seed_never_changes(weight: Callable[..., Weight]) -> None:
    """A later version must reproduce a study's results, so a golden mask is stored here."""
    assert mask(weight([1.0] * 12)) == GOLDEN


def test_masks_differ_between_seeds_experts_and_tensors(weight: Callable[..., Weight]) -> None:
    """Four draws that differ in one input each give four masks of 64 entries."""
    two = weight(ONES, ONES)
    draws = [mask(two), mask(two, seed=1), mask(two, expert=1), mask(weight(ONES, name="v"))]
    assert len({tuple(draw) for draw in draws}) == 4


def test_a_mask_ignores_the_other_experts(weight: Callable[..., Weight]) -> None:
    """Further experts do not change an expert's mask."""
    alone = mask(weight(ONES))
    assert mask(weight(ONES, [2.0] * 64, [3.0] * 64)) == alone


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_share_of_kept_entries_is_the_density(
    weight: Callable[..., Weight], density: float
) -> None:
    """The kept share of 40,000 entries is within five standard errors, 0.0125."""
    kept = mask(weight([1.0] * 40_000), density=density)
    assert sum(kept) / len(kept) == pytest.approx(density, abs=0.0125)


def test_the_order_of_tensors_is_irrelevant() -> None:
    """The same two tensors in another order merge to the same bits."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = (
        {name: torch.randn(50, generator=generator) for name in "ab"} for _ in range(3)
    )
    there = dict(merge(base, experts, options=MergeOptions(params=DareParams())))
    back = dict(
        merge(dict(reversed(base.items())), experts, options=MergeOptions(params=DareParams()))
    )
    assert all(torch.equal(there[name], back[name]) for name in "ab")


def test_density_one_is_task_arithmetic() -> None:
    """Nothing is dropped, so the bits are those of task arithmetic."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(50, generator=generator)} for _ in range(4))
    dare = dict(
        merge(base, experts, options=MergeOptions(params=DareParams(density=1, scaling=0.7)))
    )
    arithmetic = dict(
        merge(base, experts, options=MergeOptions(params=TaskArithmeticParams(scaling=0.7)))
    )
    assert torch.equal(dare["w"], arithmetic["w"])


def test_dare_adds_the_thinned_vectors(weight: Callable[..., Weight]) -> None:
    """The merge is base + scaling * (thinned first + thinned second)."""
    both = weight(ONES, [2.0] * 64, base=[0.5] * 64)
    parts = [thin(both, index, density=0.5, rescale=True, seed=3) for index in range(2)]
    expected = 0.5 + 0.25 * (parts[0] + parts[1])
    params = DareParams(density=0.5, scaling=0.25)
    merged = dict(
        merge(both.base_state, both.expert_states, options=MergeOptions(params=params, seed=3))
    )
    torch.testing.assert_close(merged["w"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chance", [0.0, 1e-6, 0.3, 1 / 3, 0.5, 1.0])
def test_flags_are_true_by_the_chance(chance: float) -> None:
    """The share of True in four million is within six standard errors; 0 and 1 are exact."""
    num = 4_000_000
    share = bernoulli(num, chance=chance, digest=DIGEST).mean()
    assert abs(share - chance) <= 6 * (chance * (1 - chance) / num) ** 0.5


def test_a_probability_between_two_256ths_is_exact() -> None:
    """At half a 256th, half of the entries whose 8 random bits are all zero are True, no others.

    At a whole 256th, exactly these entries are True.
    """
    num = 1 << 22
    half, whole = (bernoulli(num, chance=each / 256, digest=DIGEST) for each in (0.5, 1))
    assert not (half & ~whole).any()
    num_whole = int(whole.sum())
    assert num_whole == pytest.approx(num / 256, rel=0.05)
    assert half.sum() == pytest.approx(num_whole / 2, abs=3 * num_whole**0.5)


@pytest.mark.parametrize("num", [1, 5, 8, 13])
def test_any_number_of_entries_can_be_drawn(num: int) -> None:
    """A random number gives 8 entries; the first entries do not depend on how many follow."""
    flags, more = (bernoulli(each, chance=0.5, digest=DIGEST) for each in (num, 16))
    assert flags.tolist() == more.tolist()[:num]

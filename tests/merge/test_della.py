from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
import torch

from merge.merge import MergeOptions, merge
from merge.operators.della import prune
from merge.parameters.linear import TaskArithmeticParams
from merge.parameters.sparse import DellaParams
from merge.protocols import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merge.weight import Weight

    Make = Callable[..., dict[str, Tensor]]
    Merge = Callable[..., dict[str, list[float]]]

NUM_ROWS = 20_000
ROW = [3.0, -1.0, 0.5, 2.0, -4.0]
RANKS = [3, 1, 0, 2, 4]
"""The ranks of the row's entries, from the least magnitude."""
GOLDEN = [1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0]
"""The mask of 12 11 ... 1, at seed 0, expert 0, tensor w and density 1/2."""


def pruned(
    weight: Weight, *, num_columns: int, seed: int = 0, expert: int = 0, **values: float
) -> Tensor:
    """Prunes a whole weight that has fewer entries than a block."""
    (block,) = weight.blocks
    recipe = Recipe(params=DellaParams(**values), seed=seed, group_result=None)  # type: ignore[arg-type]
    return prune(block, expert, num_columns=num_columns, recipe=recipe)


def shares(weight: Callable[..., Weight], *, density: float, epsilon: float) -> Tensor:
    """Returns the fraction of equal rows in which each entry is kept."""
    rows = pruned(weight(ROW * NUM_ROWS), num_columns=5, density=density, epsilon=epsilon)
    return (rows.view(-1, 5) != 0).double().mean(dim=0)


def test_the_chance_of_an_entry_goes_by_its_rank(weight: Callable[..., Weight]) -> None:
    """Probabilities 0.4 to 0.8 from the least magnitude up, within five standard errors."""
    expected = torch.tensor([0.4 + 0.1 * rank for rank in RANKS], dtype=torch.float64)
    found = shares(weight, density=0.6, epsilon=0.4)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.018)


def test_the_window_narrows_where_it_would_leave_the_unit_interval(
    weight: Callable[..., Weight],
) -> None:
    """Around 0.9 the widest window is 0.8 to 1, for every larger epsilon."""
    expected = torch.tensor([0.8 + 0.05 * rank for rank in RANKS], dtype=torch.float64)
    found = shares(weight, density=0.9, epsilon=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.015)
    assert found[4] == 1


def test_kept_entries_are_divided_by_their_chance(weight: Callable[..., Weight]) -> None:
    """Each entry is 0, or its value divided by the probability of its rank."""
    rows = pruned(weight(ROW * 100), num_columns=5, density=0.6, epsilon=0.4).view(-1, 5)
    for column, value, rank in zip(rows.T, ROW, RANKS, strict=True):
        kept = column[column != 0]
        assert 0 < len(kept) < 100
        torch.testing.assert_close(kept, torch.full_like(kept, value / (0.4 + 0.1 * rank)))


def test_a_row_of_one_entry_is_kept_by_the_density(weight: Callable[..., Weight]) -> None:
    """Without ranks, a quarter of 10,000 is kept, within five standard errors."""
    rows = pruned(weight([1.0] * 10_000), num_columns=1, density=0.25, epsilon=0.4)
    assert float((rows != 0).double().mean()) == pytest.approx(0.25, abs=0.022)


def test_the_mask_of_a_seed_never_changes(weight: Callable[..., Weight]) -> None:
    """A later version must reproduce a study's results, so a golden mask is stored here."""
    kept = pruned(
        weight([12.0 - rank for rank in range(12)]), num_columns=12, density=0.5, epsilon=0.2
    )
    assert (kept != 0).int().tolist() == GOLDEN


def test_masks_differ_between_seeds_experts_and_tensors(weight: Callable[..., Weight]) -> None:
    """Four draws that differ in one input each give four masks of 64 entries."""
    ones = [1.0] * 64
    two = weight(ones, ones)
    draws = [
        pruned(two, num_columns=8),
        pruned(two, num_columns=8, seed=1),
        pruned(two, num_columns=8, expert=1),
        pruned(weight(ones, name="v"), num_columns=8),
    ]
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_a_kernel_is_the_matrix_of_its_filters() -> None:
    """A row has all entries of one filter, in a kernel as in its matrix."""
    vector = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros_like(vector)
    kernel = dict(merge({"w": zeros}, [{"w": vector}], options=MergeOptions(params=DellaParams())))[
        "w"
    ]
    matrix = dict(
        merge(
            {"w": zeros.view(8, 75)},
            [{"w": vector.view(8, 75)}],
            options=MergeOptions(params=DellaParams()),
        )
    )
    assert torch.equal(kernel.view(8, 75), matrix["w"])


def test_a_tensor_of_many_blocks_is_pruned_throughout() -> None:
    """Each of 600 rows in three blocks keeps about its density, with another mask."""
    vector = torch.ones(600, 1000)
    params = DellaParams(density=0.5, epsilon=0, scaling=1)
    merged = dict(
        merge({"w": torch.zeros_like(vector)}, [{"w": vector}], options=MergeOptions(params=params))
    )["w"]
    kept = (merged != 0).double()
    assert ((kept.mean(dim=1) - 0.5).abs() < 0.1).all()
    assert len(set(map(tuple, kept.tolist()))) == 600


@pytest.mark.parametrize(
    ("consensus", "elect", "expected"),
    [
        ("sum", True, [4, 0, -3]),
        ("mean", True, [2, 0, -3]),
        ("sum", False, [3, 0, -1]),
        ("mean", False, [1, 0, -1 / 3]),
    ],
)
def test_the_consensus_by_hand(
    tensors: Make,
    merged_lists: Merge,
    consensus: Literal["sum", "mean"],
    *,
    elect: bool,
    expected: list[float],
) -> None:
    """With nothing dropped, sums 3, 0 and -1 elect +, neither and -."""
    experts = [tensors(w=[2, 1, -3]), tensors(w=[2, -1, 1]), tensors(w=[-1, 0, 1])]
    params = DellaParams(density=1, scaling=1, consensus=consensus, elect=elect)
    merged = merged_lists(tensors(w=[0, 0, 0]), experts, params=params)
    assert merged["w"] == pytest.approx(expected)


def test_with_nothing_dropped_and_no_election_it_is_task_arithmetic() -> None:
    """Density 1 leaves no window, so the bits are those of the sum."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(10, 5, generator=generator)} for _ in range(4))
    params = DellaParams(density=1, elect=False, consensus="sum", scaling=0.7)
    della = dict(merge(base, experts, options=MergeOptions(params=params)))
    arithmetic = dict(
        merge(base, experts, options=MergeOptions(params=TaskArithmeticParams(scaling=0.7)))
    )
    assert torch.equal(della["w"], arithmetic["w"])


@pytest.mark.parametrize("rank_chance", [0.0, 5.5e-17, 2.0**-24])
def test_a_draw_of_zero_never_keeps_an_entry_of_probability_zero(
    weight: Callable[..., Weight], monkeypatch: pytest.MonkeyPatch, rank_chance: float
) -> None:
    """Some draws are exactly 0; the least rank, whose window begins at 0, is dropped all the same.

    A window that begins at 5.5e-17 is one that rounding moved away from 0.
    """
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    density = 0.05 + rank_chance
    rows = pruned(weight([3.0, -1.0]), num_columns=2, density=density, epsilon=0.1)
    assert rows.tolist() == pytest.approx([3.0 / (2 * density - rank_chance), 0.0])


def test_the_seed_that_drew_a_zero_gives_a_model() -> None:
    """Seed 387 drew a 0 at the edge of the window, and the merge reached 2.4e34."""
    generator = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(2000, 2, generator=generator)}
    moves = [1e-3 * torch.randn(2000, 2, generator=generator) for _ in range(2)]
    experts = [{"w": base["w"] + move} for move in moves]
    options = MergeOptions(params=DellaParams(density=0.05), seed=387)
    moved = dict(merge(base, experts, options=options))["w"] - base["w"]
    assert float(moved.abs().max()) <= 1.1 * max(float(each.abs().max()) for each in moves) / 0.1


def test_a_tiny_density_drops_everything(weight: Callable[..., Weight]) -> None:
    """No probability of the window reaches the distance between two draws."""
    rows = pruned(weight([1.0] * 1000), num_columns=10, density=1e-9)
    assert not rows.any()

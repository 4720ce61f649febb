from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.radix import largest, largest_magnitudes

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)


@pytest.mark.parametrize(("num_copies", "num_passes"), [(1, 1), (20_000, 2)])
def test_several_ranks_are_found_in_the_same_passes(num_copies: int, num_passes: int) -> None:
    """Ranks come in any order, and entries that fit into memory are read once."""
    passes = []
    tensors = [torch.tensor([1.0, -5.0, 3.0, -2.0, 4.0]).repeat(num_copies)]

    def start_pass() -> list[torch.Tensor]:
        passes.append("started")
        return tensors

    found = largest_magnitudes(start_pass, ranks=(4 * num_copies, 1, num_copies))
    assert found == [2.0, 5.0, 5.0]
    assert len(passes) == num_passes


@given(values=FLOATS, place=st.floats(min_value=0, max_value=1), cut=st.integers(0, 50))
def test_signed_selection_equals_sorting(values: list[float], place: float, cut: int) -> None:
    """Negative values come last, for any values and for the opposite row."""
    vector = torch.tensor(values)
    rank = 1 + round(place * (len(values) - 1))
    parts = [vector[:cut], vector[cut:]]
    found = largest(
        lambda: ((row, sign * part) for part in parts for row, sign in enumerate((1, -1))),
        ranks=[(rank, 1), (rank,)],
    )
    ordered = sorted(values, reverse=True)
    opposite = sorted((-value for value in values), reverse=True)
    assert found == [[ordered[rank - 1], ordered[0]], [opposite[rank - 1]]]


@pytest.mark.parametrize("num_entries", [(1 << 16) - 1, 1 << 16, (1 << 16) + 1, 300_000])
def test_rows_of_all_sizes_are_selected_from_alike(num_entries: int) -> None:
    """Rows that are held or counted, in uneven parts and with ties, equal sorting."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, num_entries, generator=generator).mul(1000).round().div(7)
    ranks = (1, num_entries // 3, num_entries)
    pieces = [(row, part) for row in (0, 1) for part in rows[row].split(50_000 - 17 * row)]
    for each, found in zip(rows, largest(lambda: pieces[::-1], ranks=[ranks, ranks]), strict=True):
        ordered = each.sort(descending=True).values
        assert found == [float(ordered[rank - 1]) for rank in ranks]


def test_a_small_row_beside_a_large_one_is_read_once() -> None:
    """The second pass, for the large row, does not change the small row's result."""
    large, small = torch.arange(100_000.0), torch.tensor([3.0, -1.0])
    found = largest(lambda: [(1, small), (0, large)], ranks=[(2,), (2, 1)])
    assert found == [[99_998.0], [-1.0, 3.0]]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_outside_the_entries_is_refused(rank: int) -> None:
    """Three entries have no zeroth and no fourth."""
    with pytest.raises(ValueError, match=f"rank {rank}"):
        largest_magnitudes(lambda: [torch.ones(3)], ranks=[rank])


@pytest.mark.parametrize("rank", [0, 100_001])
def test_a_rank_outside_many_entries_is_refused(rank: int) -> None:
    """The number of entries is also checked for rows that are counted."""
    with pytest.raises(ValueError, match=f"rank {rank} is outside 1 to 100000"):
        largest_magnitudes(lambda: [torch.ones(100_000)], ranks=[1, rank])


def test_a_row_without_entries_has_no_rank() -> None:
    """A row without tensors is reported like one that is too short."""
    with pytest.raises(ValueError, match="rank 1 is outside 1 to 0"):
        largest(lambda: [(0, torch.ones(3))], ranks=[(1,), (1,)])

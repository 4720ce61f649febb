from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.radix import largest, largest_magnitudes

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)


def test_several_ranks_are_found_in_the_same_passes() -> None:
    """Of the magnitudes 5 4 3 2 1, with ranks in any order; two passes are started."""
    passes = []
    tensors = [torch.tensor([1.0, -5.0, 3.0, -2.0, 4.0])]
    found = largest_magnitudes(lambda: passes.append(0) or tensors, ranks=(4, 1, 1))
    assert found == [2.0, 5.0, 5.0]
    assert len(passes) == 2


@given(values=FLOATS, place=st.floats(min_value=0, max_value=1), cut=st.integers(0, 50))
def test_signed_selection_equals_sorting(values: list[float], place: float, cut: int) -> None:
    """Negative values come last, for any values, of two rows that are each other's opposite."""
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


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_outside_the_entries_is_refused(rank: int) -> None:
    """There is no zeroth and no fourth of three entries."""
    with pytest.raises(ValueError, match=f"rank {rank}"):
        largest_magnitudes(lambda: [torch.ones(3)], ranks=[rank])

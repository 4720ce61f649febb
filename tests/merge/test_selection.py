from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.selection import just_below, largest, largest_magnitude, largest_magnitudes

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)


def test_the_rank_runs_over_all_tensors_together() -> None:
    """Of the magnitudes 5 4 3 2 1 in two tensors, the third largest is 3."""
    tensors = [torch.tensor([[1.0, -5.0]]), torch.tensor([3.0, -2.0, 4.0])]
    assert largest_magnitude(lambda: tensors, rank=3) == 3.0


def test_values_that_share_the_upper_half_of_their_bits_are_told_apart() -> None:
    """Neighbouring floats differ in the last bit only, and the second pass sees it."""
    one = torch.tensor(1.0)
    above = torch.nextafter(one, torch.tensor(2.0))
    tensors = [torch.stack([one, above, one])]
    assert largest_magnitude(lambda: tensors, rank=1) == float(above)
    assert largest_magnitude(lambda: tensors, rank=2) == 1.0


@given(values=FLOATS, place=st.floats(min_value=0, max_value=1), cut=st.integers(0, 50))
def test_selection_equals_sorting(values: list[float], place: float, cut: int) -> None:
    """For any values, any rank and any division into tensors, sorting gives the same number."""
    vector = torch.tensor(values)
    rank = 1 + round(place * (len(values) - 1))
    found = largest_magnitude(lambda: (vector[:cut], vector[cut:]), rank=rank)
    assert found == sorted((abs(value) for value in values), reverse=True)[rank - 1]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_outside_the_entries_is_refused(rank: int) -> None:
    """There is no zeroth and no fourth of three entries."""
    with pytest.raises(ValueError, match=f"rank {rank}"):
        largest_magnitude(lambda: [torch.ones(3)], rank=rank)


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


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-45, 3e38])
def test_nothing_lies_between_a_value_and_the_one_just_below(value: float) -> None:
    """The next float32 above it is the value again."""
    below = just_below(value)
    assert below < value
    assert float(torch.nextafter(torch.tensor(below), torch.tensor(torch.inf))) == float(
        torch.tensor(value)
    )

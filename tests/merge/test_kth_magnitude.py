from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merge.kth_magnitude import _split, just_below, largest_magnitude

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1)


def test_the_rank_runs_over_all_tensors_together() -> None:
    """Of the magnitudes 5 4 3 2 1 in two tensors, the third largest is 3."""
    tensors = [torch.tensor([[1.0, -5.0]]), torch.tensor([3.0, -2.0, 4.0])]
    assert largest_magnitude(lambda: tensors, rank=3, num_entries=5) == 3.0


def test_values_that_share_the_upper_half_of_their_bits_are_distinguished() -> None:
    """Neighbouring floats differ only in the last bit, which the second pass counts."""
    one = torch.tensor(1.0)
    above = torch.nextafter(one, torch.tensor(2.0))
    tensors = [torch.stack([one, above, one])]
    assert largest_magnitude(lambda: tensors, rank=1, num_entries=3) == float(above)
    assert largest_magnitude(lambda: tensors, rank=2, num_entries=3) == 1.0


@given(values=FLOATS, place=st.floats(min_value=0, max_value=1), cut=st.integers(0, 50))
def test_selection_equals_sorting(values: list[float], place: float, cut: int) -> None:
    """Sorting gives the same number for any values, rank and division into tensors."""
    vector = torch.tensor(values)
    rank = 1 + round(place * (len(values) - 1))
    found = largest_magnitude(
        lambda: (vector[:cut], vector[cut:]), rank=rank, num_entries=len(values)
    )
    assert found == sorted((abs(value) for value in values), reverse=True)[rank - 1]


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_outside_the_entries_is_refused(rank: int) -> None:
    """Three entries have no zeroth and no fourth."""
    with pytest.raises(ValueError, match=f"rank {rank}"):
        largest_magnitude(lambda: [torch.ones(3)], rank=rank, num_entries=3)


@pytest.mark.parametrize("rank", [1, 2, 1000, 100_000, 199_999, 200_000])
def test_a_bracket_from_a_sample_finds_what_sorting_finds(rank: int) -> None:
    """The right one of 200,000 entries in tensors of three scales is found."""
    generator = torch.Generator().manual_seed(rank)
    tensors = [
        torch.randn(num, generator=generator) * scale
        for num, scale in ((150_000, 1.0), (49_000, 0.01), (1000, 5.0))
    ]
    flat = torch.cat(tensors).abs().sort(descending=True).values
    found = largest_magnitude(lambda: tensors, rank=rank, num_entries=200_000)
    assert found == float(flat[rank - 1])


@pytest.mark.parametrize("rank", [1, 70_000, 140_000])
def test_a_sample_that_misleads_changes_nothing(rank: int) -> None:
    """With a sample of nines the bracket misses, and the radix selection finds the value."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(140_000, generator=generator)
    found = largest_magnitude(
        lambda: [vector],
        rank=rank,
        num_entries=140_000,
        start_sample=lambda: [torch.full((2000,), 9.0)],
    )
    assert found == float(vector.abs().sort(descending=True).values[rank - 1])


def test_a_vector_of_ties_is_selected_from() -> None:
    """Equal entries fill the bracket, and every rank among them gives their magnitude."""
    vector = torch.full((100_000,), 0.5)
    vector[::2] = 0.0
    assert largest_magnitude(lambda: [vector], rank=50_000, num_entries=100_000) == 0.5
    assert largest_magnitude(lambda: [vector], rank=50_001, num_entries=100_000) == 0.0


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-45, 3e38])
def test_nothing_lies_between_a_value_and_the_one_just_below(value: float) -> None:
    """The next float32 above the result is the value."""
    below = just_below(value)
    assert below < value
    assert float(torch.nextafter(torch.tensor(below), torch.tensor(torch.inf))) == float(
        torch.tensor(value)
    )


@pytest.mark.parametrize("levels", [(0.0,), (0.0, 0.5), (0.0, 0.5, 1.0), (0.25, 0.5, 0.75, 1.0)])
def test_every_rank_among_a_few_values_is_found(levels: tuple[float, ...]) -> None:
    """Ranks at the edges of each value are found too, beside tensors of other values."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(levels), (100_000,), generator=generator)
    tensors = [torch.tensor(levels)[drawn], torch.rand(5000, generator=generator)]
    flat = torch.cat(tensors).sort(descending=True).values
    edges = (flat.diff().nonzero().flatten()[::500] + 1).tolist()
    for rank in {1, 2, 50_000, 104_999, 105_000, *edges, *(edge + 1 for edge in edges)}:
        found = largest_magnitude(lambda: tensors, rank=rank, num_entries=105_000)
        assert found == float(flat[rank - 1]), rank


def test_weights_that_were_not_trained_are_not_kept_in_memory() -> None:
    """Nine tenths of the task vector are zeros, and the wanted magnitude is among them."""
    vector = torch.zeros(100_000)
    vector[::10] = 1.0
    assert len(_split([vector], low=0.0, high=0.0).inside) == 0
    assert largest_magnitude(lambda: [vector], rank=20_000, num_entries=100_000) == 0.0

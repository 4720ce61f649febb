from __future__ import annotations

import pytest
import torch

from merge.alignment.permutations import Axis, by_unit, permute, specify
from merge.errors import UnalignableError


def test_an_axis_takes_its_entries_from_where_the_permutation_says() -> None:
    """The new first row is the old third one."""
    tensor = torch.tensor([[1, 10], [2, 20], [3, 30]])
    moved = permute(
        tensor, axes=[Axis(dim=0, group="g")], permutations={"g": torch.tensor([2, 0, 1])}
    )
    assert moved.tolist() == [[3, 30], [1, 10], [2, 20]]


def test_units_move_whole_and_in_every_repeat() -> None:
    """Two heads of two entries change places in the queries, in the keys and in the values."""
    tensor = torch.arange(12)
    axis = Axis(dim=0, group="heads", num_repeats=3, num_inner=2)
    moved = permute(tensor, axes=[axis], permutations={"heads": torch.tensor([1, 0])})
    assert moved.tolist() == [2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9]


def test_both_axes_of_a_tensor_move() -> None:
    """A kernel's outputs and inputs belong to different groups."""
    tensor = torch.tensor([[1, 2, 3], [4, 5, 6]])
    moved = permute(
        tensor,
        axes=[Axis(dim=0, group="out"), Axis(dim=1, group="in")],
        permutations={"out": torch.tensor([1, 0]), "in": torch.tensor([1, 2, 0])},
    )
    assert moved.tolist() == [[5, 6, 4], [2, 3, 1]]


def test_where_nothing_moves_the_tensor_itself_comes_back() -> None:
    """An identity permutation copies nothing."""
    tensor = torch.zeros(2)
    axes = [Axis(dim=0, group="g")]
    assert permute(tensor, axes=axes, permutations={"g": torch.arange(2)}) is tensor


def test_the_rows_of_a_unit_hold_all_its_entries() -> None:
    """Each of two heads has two entries in each of three repeats, times two columns."""
    tensor = torch.arange(24).reshape(12, 2)
    rows = by_unit(tensor, axis=Axis(dim=0, group="heads", num_repeats=3, num_inner=2))
    assert rows.tolist() == [
        [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19],
        [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23],
    ]


def test_axes_of_one_group_must_have_one_size() -> None:
    """The message names the tensor that does not fit, with its shape."""
    axes = {"a": (Axis(dim=0, group="g"),), "b": (Axis(dim=1, group="g"),)}
    with pytest.raises(UnalignableError, match=r"differ in size .*: b\[8, 2\]$"):
        specify(axes, shapes={"a": (4,), "b": (8, 2)})


def test_an_axis_must_hold_whole_units() -> None:
    """Units of four entries do not fit into ten entries."""
    axes = {"a": (Axis(dim=0, group="g", num_inner=4),)}
    with pytest.raises(UnalignableError, match=r"a\[10\]"):
        specify(axes, shapes={"a": (10,)})

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from merge.errors import MismatchError, Names
from merge.inputs.matching import check_match


def difference(base: dict[str, Tensor], expert: dict[str, Tensor]) -> str:
    with pytest.raises(MismatchError) as raised:
        check_match(base, experts=[base, expert])
    return str(raised.value)


def test_equal_architectures_match() -> None:
    """Only values may differ; one more entry is an error."""
    check_match({"w": torch.zeros(2)}, experts=[{"w": torch.ones(2)}])
    with pytest.raises(MismatchError):
        check_match({"w": torch.zeros(2)}, experts=[{"w": torch.ones(3)}])


def test_a_missing_name_is_named() -> None:
    """The message says which expert lacks which tensor."""
    assert "expert 2: w is missing" in difference({"w": torch.zeros(2)}, {})


def test_an_additional_name_is_named() -> None:
    """A tensor that the base does not have cannot be merged."""
    base = {"w": torch.zeros(2)}
    assert "expert 2: v is unknown" in difference(base, {**base, "v": torch.zeros(2)})


def test_a_shape_is_named_with_both_sides() -> None:
    """The message has the found and the expected shape."""
    message = difference({"w": torch.zeros(2)}, {"w": torch.zeros(2, 1)})
    assert "expert 2: w is float32[2, 1] and the base's float32[2]" in message


def test_a_dtype_is_named_with_both_sides() -> None:
    """Half precision is never silently mixed with single precision."""
    message = difference({"w": torch.zeros(2)}, {"w": torch.zeros(2, dtype=torch.float16)})
    assert "w is float16[2] and the base's float32[2]" in message


def test_of_many_differences_five_are_shown_and_the_rest_counted() -> None:
    """A wrong backbone gives a readable message, in the base's order."""
    base = {f"w{index}": torch.zeros(1) for index in range(8)}
    message = difference(base, {})
    assert all(f"w{index} is missing" in message for index in range(5))
    assert "w5" not in message
    assert message.endswith("and 3 more")


def test_a_mismatch_survives_a_process_boundary() -> None:
    """An error raised in a worker keeps its differences."""
    error = MismatchError({"expert 1": ["w is missing"]}, base="the base")
    arrived = pickle.loads(pickle.dumps(error))
    assert str(arrived) == str(error)
    assert arrived.differences == error.differences


def test_files_are_named_and_each_expert_has_its_first_differences() -> None:
    """One expert with many differences does not hide another one."""
    base = {f"w{index}": torch.zeros(1) for index in range(8)}
    names = Names(base="b.safetensors", experts=["x.safetensors", "y.safetensors"])
    with pytest.raises(MismatchError) as raised:
        check_match(base, experts=[{}, {**base, "v": torch.zeros(1)}], names=names)
    first, second, third = str(raised.value).splitlines()
    assert first == "b.safetensors and its experts do not match:"
    assert second.endswith(
        "x.safetensors: "
        + "; ".join([*(f"w{index} is missing" for index in range(5)), "and 3 more"])
    )
    assert third.endswith("y.safetensors: v is unknown to the base")


def test_floats_may_be_mixed_where_they_are_converted() -> None:
    """Integers never are, and shapes must still agree."""
    base, half = {"w": torch.zeros(2)}, {"w": torch.zeros(2, dtype=torch.float16)}
    check_match(base, experts=[half], may_mix_floats=True)
    for other in (torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.float16)):
        with pytest.raises(MismatchError):
            check_match(base, experts=[{"w": other}], may_mix_floats=True)


W = torch.zeros(2)


@pytest.mark.parametrize(
    ("base", "expert", "remedy"),
    [
        (["c.w", "c.v"], ["module.c.w", "module.c.v", "module.fc.w"], "--prefix module. removes"),
        (["w"], ["_orig_mod.module.w"], "--prefix _orig_mod.module. removes"),
        (["m.w", "m.v"], ["w", "v"], "names of the base begin with 'm.', and an expert's do not"),
        (["w"], [".w"], "give --prefix with the dot at its end"),
        (["w", "fc.w", "fc.b"], ["w", "head.w"], "all tensors outside fc and head match"),
        (["w"], ["v"], ""),
        (["a.w", "b.w", "c.w", "d.w"], ["a.w"], ""),
    ],
)
def test_a_difference_that_tells_its_cause_has_a_remedy(
    base: list[str], expert: list[str], remedy: str
) -> None:
    """Wrappers put prefixes before all names, and each task has its own classifier."""
    message = difference(dict.fromkeys(base, W), dict.fromkeys(expert, W))
    assert message.splitlines()[2:] == [line for line in message.splitlines()[2:] if remedy in line]
    assert (len(message.splitlines()) == 3) == bool(remedy)


def test_classifiers_of_other_sizes_are_told() -> None:
    """Experts of tasks with other classes differ from the base in one layer."""
    base = {"w": W, "fc.w": torch.zeros(10, 2), "fc.b": torch.zeros(10)}
    expert = {"w": W, "fc.w": torch.zeros(5, 2), "fc.b": torch.zeros(5)}
    assert "all tensors outside fc match; a classifier" in difference(base, expert)

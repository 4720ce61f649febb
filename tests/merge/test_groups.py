from __future__ import annotations

import cProfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from merge.catalogue import parse_params
from merge.errors import MergeError
from merge.merge import MergeOptions, merge, merge_groups, merge_tasks
from merge.parameters.linear import AverageParams
from merge.parameters.sparse import TiesParams
from merge.threads import in_order
from merge.weight import BLOCK_ENTRIES

GROUPS = [[0, 2], [3, 1], [0, 1, 2, 3], [2]]


def states(num_states: int, *, size: int = 40) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"fc.weight": (size, 7), "conv.weight": (4, 3, 3, 3), "fc.bias": (size,)}
    return [
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        | {
            "bn.running_mean": torch.randn(4, generator=generator),
            "bn.running_var": torch.rand(4, generator=generator) + 0.5,
            "bn.num_batches_tracked": torch.tensor(100 * index),
        }
        for index in range(num_states)
    ]


class CountedState(Mapping[str, Tensor]):
    """A state that counts how often each tensor is read after another tensor."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.reads: Counter[str] = Counter()
        self.last = ""

    def __getitem__(self, name: str) -> Tensor:
        if name != self.last:
            self.reads[name] += 1
            self.last = name
        return self.state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@pytest.mark.parametrize("name", ["average", "task_arithmetic", "ties", "dare", "dare_ties"])
def test_groups_merged_together_have_the_bits_of_groups_merged_apart(name: str) -> None:
    """Other groups and shared measurements have no effect on a group's result."""
    base, *experts = states(5)
    options = MergeOptions(params=parse_params(name, {}), seed=3)
    together = dict(merge_groups(base, experts, groups=GROUPS, options=options))
    for index, group in enumerate(GROUPS):
        members = [experts[expert] for expert in group]
        apart = dict(merge(base, members, options=MergeOptions(params=options.params, seed=3)))
        for tensor_name, tensors in together.items():
            assert torch.equal(tensors[index], apart[tensor_name]), (tensor_name, group)


@pytest.mark.parametrize("name", ["average", "ties", "dare", "dare_ties"])
def test_the_number_of_threads_shows_in_no_bit(name: str) -> None:
    """Tensors are independent, and every sum is computed by one thread."""
    base, *experts = states(4, size=200)
    one, three = (
        dict(
            merge(
                base, experts, options=MergeOptions(params=parse_params(name, {}), num_threads=num)
            )
        )
        for num in (1, 3)
    )
    assert list(one) == list(three)
    assert all(torch.equal(one[name], three[name]) for name in one)


def test_fifteen_groups_read_every_expert_once() -> None:
    """Averaging 15 groups of 8 reads every tensor of the 20 experts once after the check."""
    base, *experts = (CountedState(state) for state in states(21))
    generator = torch.Generator().manual_seed(1)
    groups = [torch.randperm(20, generator=generator)[:8].tolist() for _ in range(15)]
    options = MergeOptions(params=AverageParams())
    merged = merge_groups(base, experts, groups=groups, options=options)
    for expert in experts:
        expert.reads.clear()  # the check looks at shapes
    for _ in merged:
        pass
    assert {tuple(expert.reads.values()) for expert in experts} == {(1,) * 6}


def test_threads_that_are_left_midway_end() -> None:
    """A caller that takes one tensor and stops leaves no thread behind."""
    base, *experts = states(4)
    before = set(threading.enumerate())
    merged = merge(base, experts, options=MergeOptions(params=AverageParams(), num_threads=2))
    next(merged)
    merged.close()  # type: ignore[attr-defined]
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
    assert set(threading.enumerate()) == before


def test_an_interrupt_does_not_wait_for_threads_that_compute() -> None:
    """It is raised while a thread is still busy, and the thread does not keep the process alive."""
    is_started, may_end = threading.Event(), threading.Event()

    def compute(item: int) -> int:
        is_started.set()
        may_end.wait(timeout=60)
        return item

    def items() -> Iterator[int]:
        yield from range(2)
        is_started.wait(timeout=60)
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        list(in_order(compute, items(), num_threads=2))
    left = set(threading.enumerate()) - before
    assert left
    assert all(thread.daemon for thread in left)
    may_end.set()
    for thread in left:
        thread.join(timeout=10)


def test_an_error_in_a_thread_reaches_whoever_takes_the_tensors() -> None:
    """The error names tensor and expert, as without threads."""
    base, *experts = states(3)
    experts[1]["conv.weight"][0] = float("nan")
    merged = merge(base, experts, options=MergeOptions(params=AverageParams(), num_threads=2))
    with pytest.raises(MergeError, match=r"conv\.weight of expert 2"):
        list(merged)


def test_results_and_errors_of_threads_come_in_the_order_of_the_items() -> None:
    """Results of items before a failing item are returned first."""
    given = in_order(lambda item: 12 // item, [4, 3, 0, 2], num_threads=3)
    assert [next(given), next(given)] == [3, 4]
    with pytest.raises(ZeroDivisionError):
        next(given)


def test_blocks_do_not_show_in_the_result() -> None:
    """A tensor of two blocks and a rest has the average that torch computes for the whole."""
    generator = torch.Generator().manual_seed(0)
    base, *experts = ({"w": torch.randn(2 * BLOCK_ENTRIES + 5, generator=generator)} for _ in "abc")
    merged = dict(merge(base, experts, options=MergeOptions(params=AverageParams())))
    assert torch.equal(merged["w"], (experts[0]["w"] + experts[1]["w"]) / 2)


@pytest.mark.parametrize("groups", [[], [[0], []]])
def test_an_empty_group_is_refused(groups: list[list[int]]) -> None:
    """A merge of no expert is undefined, also beside other groups."""
    base, *experts = states(3)
    with pytest.raises(MergeError, match="at least one expert"):
        merge_groups(base, experts, groups=groups, options=MergeOptions(params=AverageParams()))


def test_a_method_with_one_model_has_none_for_each_task() -> None:
    """The error names the method."""
    base, *experts = states(3)
    options = MergeOptions(params=AverageParams())
    with pytest.raises(MergeError, match="average makes one model for all tasks"):
        merge_tasks(base, experts, tasks=[0], options=options)


def test_work_grows_with_the_number_of_small_tensors_and_not_with_its_square() -> None:
    """Four times as many tensors take at most five times as many calls of functions."""

    def num_calls(num_tensors: int) -> int:
        state = {f"w{index}": torch.ones(2) for index in range(num_tensors)}
        options = MergeOptions(params=TiesParams(), num_threads=2)
        with cProfile.Profile() as profile:
            merged = dict(merge(state, [state, state], options=options))
        assert list(merged) == list(state)
        return sum(each.callcount for each in profile.getstats())

    assert num_calls(1600) < 5 * num_calls(400)

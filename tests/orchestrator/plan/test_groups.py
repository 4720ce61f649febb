import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.groups import Group, num_possible, sample_groups

SIX = ("a", "b", "c", "d", "e", "f")


def by_size(groups: tuple[Group, ...]) -> dict[int, list[Group]]:
    sizes = itertools.groupby(groups, key=lambda group: group.size)
    return {size: list(members) for size, members in sizes}


def test_groups_of_a_seed_are_those_written_here() -> None:
    """A change in the sampling would change the groups of every study."""
    groups = sample_groups(("d", "c", "b", "a"), sizes=[2, 3], count=3, seed=7)
    assert [(group.name, "".join(group.tasks)) for group in groups] == [
        ("2x00", "bd"),
        ("2x01", "cd"),
        ("2x02", "ac"),
        ("3x00", "abd"),
        ("3x01", "bcd"),
        ("3x02", "abc"),
    ]


def test_order_in_which_tasks_are_listed_changes_nothing() -> None:
    """The same set of tasks has the same groups."""
    given_order = sample_groups(SIX, sizes=[2, 4], count=5, seed=3)
    assert sample_groups(SIX[::-1], sizes=[4, 2, 4], count=5, seed=3) == given_order


def test_seeds_sample_other_groups() -> None:
    """Ten seeds give ten different samples."""
    samples = {sample_groups(SIX, sizes=[3], count=5, seed=seed) for seed in range(10)}
    assert len(samples) == 10


def test_six_tasks_have_fifteen_pairs_and_fours_nested_one_to_one() -> None:
    """All 15 groups of both sizes are used, and each pair lies in a group of four of its own."""
    sizes = by_size(sample_groups(SIX, sizes=[2, 4], count=15, seed=0))
    assert [len(sizes[2]), len(sizes[4])] == [15, 15]
    assert len({group.tasks for group in sizes[4]}) == 15
    pairs = zip(sizes[2], sizes[4], strict=True)
    assert all(set(pair.tasks) < set(four.tasks) for pair, four in pairs)


def test_all_groups_are_used_where_fewer_exist() -> None:
    """Six tasks have only six groups of five and one of six."""
    sizes = by_size(sample_groups(SIX, sizes=[2, 5, 6], count=15, seed=0))
    assert [len(members) for members in sizes.values()] == [15, 6, 1]
    assert {group.tasks for group in sizes[5]} == set(itertools.combinations(SIX, 5))


def test_a_group_without_a_superset_of_its_own_does_not_move_the_others() -> None:
    """With seed 0 one of six groups of four cannot nest; the other five still do."""
    sizes = by_size(sample_groups(SIX, sizes=[2, 4, 5], count=6, seed=0))
    pairs = zip(sizes[4], sizes[5], strict=True)
    assert [set(four.tasks) < set(five.tasks) for four, five in pairs].count(False) == 1


def test_many_candidates_are_sampled_and_still_nested() -> None:
    """A pair of twenty tasks has 18,564 supersets of eight, of which a sample is tried."""
    names = [f"t{number:02d}" for number in range(20)]
    sizes = by_size(sample_groups(names, sizes=[2, 8, 20], count=15, seed=1))
    assert len({group.tasks for group in sizes[8]}) == 15
    nested = zip(sizes[2], sizes[8], strict=True)
    assert all(set(pair.tasks) < set(eight.tasks) for pair, eight in nested)
    assert [group.name for group in sizes[20]] == ["20x00"]


@given(
    num_tasks=st.integers(1, 12),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**63 - 1),
    drawn=st.sets(st.integers(1, 12), min_size=1, max_size=4),
)
@settings(max_examples=60)
def test_groups_are_distinct_counted_sorted_and_nested(
    num_tasks: int, count: int, seed: int, drawn: set[int]
) -> None:
    """Every sample has the right numbers, no repeats, and nesting where it is possible."""
    names = [f"t{number:02d}" for number in range(num_tasks)]
    wanted_sizes = sorted({min(size, num_tasks) for size in drawn})
    sizes = by_size(sample_groups(names, sizes=wanted_sizes, count=count, seed=seed))
    assert list(sizes) == wanted_sizes
    for size, groups in sizes.items():
        assert len(groups) == min(count, math.comb(num_tasks, size))
        assert [group.name for group in groups] == [f"{size}x{i:02d}" for i in range(len(groups))]
        assert len({group.tasks for group in groups}) == len(groups)
        assert all(list(group.tasks) == sorted(set(group.tasks)) for group in groups)
    for small, large in itertools.pairwise(wanted_sizes):
        if math.comb(num_tasks, small) <= math.comb(num_tasks, large):
            pairs = zip(sizes[small], sizes[large], strict=False)
            assert all(set(inner.tasks) < set(outer.tasks) for inner, outer in pairs)


@pytest.mark.parametrize("size", [0, 7])
def test_impossible_size_is_refused(size: int) -> None:
    """A size that the tasks cannot fill is an error, not an empty study."""
    with pytest.raises(ValueError, match="between 1 and 6"):
        sample_groups(SIX, sizes=[2, size], count=1, seed=0)


def test_number_of_possible_groups_is_the_binomial() -> None:
    """Six tasks have fifteen pairs."""
    assert num_possible(6, size=2) == 15

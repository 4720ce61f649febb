"""Samples the groups of tasks whose experts are merged.

A group is a set of distinct tasks. Groups of one size are all different. Groups are nested along
the sizes: the third group of four tasks contains the third group of two. If the larger size has
fewer groups, some of the smaller groups have no larger group of their own. All settings and methods
use the same groups, so that comparisons are paired.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workers.sampling.seeds import derive_seed

MAX_CANDIDATES = 2000
"""Most supersets of a group that are tried; if more exist, so many are sampled."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tasks whose experts are merged."""

    name: str
    """Size and number: `4x03`."""
    tasks: tuple[str, ...]
    """Sorted by name, which is the order in which experts are summed."""

    @property
    def size(self) -> int:
        """Number of tasks."""
        return len(self.tasks)


def num_possible(num_tasks: int, *, size: int) -> int:
    """Returns the number of distinct groups of a size."""
    return math.comb(num_tasks, size)


def sample_groups(
    tasks: Sequence[str], *, sizes: Sequence[int], count: int, seed: int
) -> tuple[Group, ...]:
    """Samples `count` distinct groups of each size, nested along the sizes.

    Of a size with fewer groups, all groups are returned. The order of tasks and sizes does not
    matter.

    Raises:
        ValueError: A size is not between 1 and the number of tasks.
    """
    names = sorted(tasks)
    ordered = sorted(set(sizes))
    if not all(1 <= size <= len(names) for size in ordered):
        raise ValueError(
            f"sizes {ordered} must lie between 1 and {len(names)}, the number of tasks"
        )
    generator = random.Random(derive_seed(seed, "groups", *names))  # noqa: S311 not secret
    groups: list[Group] = []
    smaller: list[frozenset[str]] = []
    for size in ordered:
        wanted = min(count, num_possible(len(names), size=size))
        nested = _nest(smaller[:wanted], names=names, size=size, generator=generator)
        smaller = _fill(nested, names=names, size=size, wanted=wanted, generator=generator)
        groups += [
            Group(name=f"{size}x{number:02d}", tasks=tuple(sorted(chosen)))
            for number, chosen in enumerate(smaller)
        ]
    return tuple(groups)


def _nest(
    smaller: Sequence[frozenset[str]], *, names: Sequence[str], size: int, generator: random.Random
) -> dict[int, frozenset[str]]:
    """Assigns supersets to smaller groups: a bipartite matching by augmenting paths.

    Returns:
        The superset of each smaller group, by its number. Groups without a superset of their own
        are missing.
    """
    candidates = [
        _supersets(group, names=names, size=size, generator=generator) for group in smaller
    ]
    owner: dict[frozenset[str], int] = {}
    for index in range(len(smaller)):
        _assign(index, candidates=candidates, owner=owner, seen=set())
    return {index: superset for superset, index in owner.items()}


def _assign(
    index: int,
    *,
    candidates: Sequence[Sequence[frozenset[str]]],
    owner: dict[frozenset[str], int],
    seen: set[frozenset[str]],
) -> bool:
    """Gives a group a superset, reassigning other groups if needed; returns whether it has one."""
    for superset in candidates[index]:
        if superset in seen:
            continue
        seen.add(superset)
        holder = owner.get(superset)
        if holder is None or _assign(holder, candidates=candidates, owner=owner, seen=seen):
            owner[superset] = index
            return True
    return False


def _supersets(
    group: frozenset[str], *, names: Sequence[str], size: int, generator: random.Random
) -> list[frozenset[str]]:
    others = [name for name in names if name not in group]
    missing = size - len(group)
    if math.comb(len(others), missing) <= MAX_CANDIDATES:
        found = [group | set(chosen) for chosen in itertools.combinations(others, missing)]
        generator.shuffle(found)
        return found
    return [group | set(generator.sample(others, missing)) for _ in range(MAX_CANDIDATES)]


def _fill(
    nested: Mapping[int, frozenset[str]],
    *,
    names: Sequence[str],
    size: int,
    wanted: int,
    generator: random.Random,
) -> list[frozenset[str]]:
    """Gives each number without a group a random group that differs from all others."""
    others = _others(nested, names=names, size=size, generator=generator)
    if wanted == num_possible(len(names), size=size):
        others = _all_others(nested, names=names, size=size, generator=generator)
    return [nested[number] if number in nested else next(others) for number in range(wanted)]


def _others(
    nested: Mapping[int, frozenset[str]],
    *,
    names: Sequence[str],
    size: int,
    generator: random.Random,
) -> Iterator[frozenset[str]]:
    seen = set(nested.values())
    while True:
        group = frozenset(generator.sample(names, size))
        if group not in seen:
            seen.add(group)
            yield group


def _all_others(
    nested: Mapping[int, frozenset[str]],
    *,
    names: Sequence[str],
    size: int,
    generator: random.Random,
) -> Iterator[frozenset[str]]:
    every = [frozenset(group) for group in itertools.combinations(names, size)]
    generator.shuffle(every)
    taken = set(nested.values())
    return (group for group in every if group not in taken)

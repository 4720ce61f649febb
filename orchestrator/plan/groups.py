"""Samples which tasks are merged together.

Groups are sets of distinct tasks, distinct within a size, and nested along the sizes: the third
group of two tasks lies inside the third of four. Only where the larger size has fewer groups can
some of the smaller ones find no superset of their own; the others keep theirs. The same groups
serve every setting and method, so that comparisons are paired.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workers.sampling.seeds import derive_seed

MAX_CANDIDATES = 2000
"""Supersets of a group that are tried; all of them up to this number."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tasks that are merged together."""

    name: str
    """Size and number: `4x03`."""
    tasks: tuple[str, ...]
    """Sorted by name: the order in which their experts are summed."""

    @property
    def size(self) -> int:
        """Number of tasks."""
        return len(self.tasks)


def num_possible(num_tasks: int, *, size: int) -> int:
    """Returns how many distinct groups of a size exist."""
    return math.comb(num_tasks, size)


def sample_groups(
    tasks: Sequence[str], *, sizes: Sequence[int], count: int, seed: int
) -> tuple[Group, ...]:
    """Samples `count` distinct groups of each size, or all where fewer exist, nested along sizes.

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
    """Gives each smaller group a superset of its own: a bipartite matching by augmenting paths.

    Returns:
        The superset by the number of the smaller group; without those that go away empty.
    """
    candidates = [
        _supersets(group, names=names, size=size, generator=generator) for group in smaller
    ]
    owner: dict[frozenset[str], int] = {}
    for index in range(len(smaller)):
        _claim(index, candidates=candidates, owner=owner, seen=set())
    return {index: superset for superset, index in owner.items()}


def _claim(
    index: int,
    *,
    candidates: Sequence[Sequence[frozenset[str]]],
    owner: dict[frozenset[str], int],
    seen: set[frozenset[str]],
) -> bool:
    for superset in candidates[index]:
        if superset in seen:
            continue
        seen.add(superset)
        holder = owner.get(superset)
        if holder is None or _claim(holder, candidates=candidates, owner=owner, seen=seen):
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
    """Gives the numbers that have no group a random one, distinct from all others."""
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

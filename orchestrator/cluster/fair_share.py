"""Divides a cluster among the studies that run on it at one time: a pure function of what they say.

Priorities are strict: a study gets nothing while a higher one could use it. Studies of one priority
share by dominant resources, one slot after another to the study that has the least.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Amounts = Mapping[str, float]
"""Of each resource, `cpu` in cores and `gpu` in GPUs."""
_TOLERANCE = 1e-9
"""Ten tenths of a GPU are one, whatever floating point says."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a study could use now, and on what terms."""

    study: str
    priority: int
    """Higher goes first."""
    share: Amounts
    """What one slot takes: the worker of a trial, or of a merge job."""
    quota: Amounts
    """What the study may hold at most; a resource that is left out is not limited."""
    num_wanted: int
    """Slots that it could fill now."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another study on the cluster."""

    study: str
    priority: int
    num_slots: int
    """Of those that it wants; its own slots, which may be of another size."""


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """What a study may hold of the cluster."""

    num_slots: int
    neighbours: tuple[Neighbour, ...] = ()


def allot(demands: Sequence[Demand], *, total: Amounts) -> list[Allotment]:
    """Divides the cluster.

    What nobody wants now is open to all: any study may take it before it has said that it wants
    more, and the next division puts right what was taken twice.

    Args:
        demands: In the order of arrival, which decides between studies that have the same.
        total: What there is.

    Source: Ghodsi et al. 2011, "Dominant Resource Fairness", algorithm 1, within each priority;
    demands are bounded, so that the filling ends with what is wanted.
    """
    free = dict(total)
    slots = [0] * len(demands)
    for priority in sorted({each.priority for each in demands}, reverse=True):
        level = [index for index, each in enumerate(demands) if each.priority == priority]
        _fill(level, slots=slots, demands=demands, free=free, total=total)
    neighbours = [
        Neighbour(study=each.study, priority=each.priority, num_slots=num)
        for each, num in zip(demands, slots, strict=True)
    ]
    return [
        Allotment(
            num_slots=slots[index] + _open_to(each, held=slots[index], free=free, total=total),
            neighbours=tuple(neighbours[:index] + neighbours[index + 1 :]),
        )
        for index, each in enumerate(demands)
    ]


def num_fitting(share: Amounts, *, within: Amounts) -> int | None:
    """Returns how many slots fit, None if nothing of what they take is limited."""
    bounds = [within[name] / amount for name, amount in share.items() if amount and name in within]
    return int(min(bounds) + _TOLERANCE) if bounds else None


def allotment_text(allotment: Allotment, *, num_all: int) -> str:
    """Says with whom a study shares the cluster and what it has of it; nothing if it is alone.

    Args:
        allotment: What it may hold.
        num_all: How many slots it could have alone.
    """
    if not allotment.neighbours:
        return ""
    if allotment.num_slots:
        others = _named(allotment.neighbours)
        return f"shares the cluster with {others}: may use {allotment.num_slots} of {num_all} slots"
    holders = [each for each in allotment.neighbours if each.num_slots]
    return f"waits for {_named(holders or allotment.neighbours)}, no slot of the cluster is left"


def _named(neighbours: Sequence[Neighbour]) -> str:
    return " and ".join(f"{each.study} (priority {each.priority})" for each in neighbours)


def _fill(
    level: Sequence[int],
    *,
    slots: list[int],
    demands: Sequence[Demand],
    free: dict[str, float],
    total: Amounts,
) -> None:
    """Gives slots to studies of one priority for as long as one of them can take another.

    Both `slots` and `free` are changed.
    """
    shares = {index: _bounded(demands[index].share, total=total) for index in level}
    most = {index: _most(demands[index]) for index in level}

    def takes_another(index: int) -> bool:
        share = shares[index]
        has_room = all(free[name] + _TOLERANCE >= amount for name, amount in share.items())
        return slots[index] < most[index] and has_room and any(share.values())

    def dominant(index: int) -> float:
        return slots[index] * max(
            amount / total[name] for name, amount in shares[index].items() if amount
        )

    while takers := [index for index in level if takes_another(index)]:
        taker = min(takers, key=dominant)
        slots[taker] += 1
        for name, amount in shares[taker].items():
            free[name] -= amount


def _most(demand: Demand) -> int:
    by_quota = num_fitting(demand.share, within=demand.quota)
    return demand.num_wanted if by_quota is None else min(demand.num_wanted, by_quota)


def _open_to(demand: Demand, *, held: int, free: Amounts, total: Amounts) -> int:
    """Returns how many more slots a study may take of what nobody wants."""
    num_free = num_fitting(_bounded(demand.share, total=total), within=free) or 0
    by_quota = num_fitting(demand.share, within=demand.quota)
    return num_free if by_quota is None else max(0, min(num_free, by_quota - held))


def _bounded(share: Amounts, *, total: Amounts) -> Amounts:
    """Returns a share that the cluster could have room for: a slot larger than it counts as all."""
    return {name: min(amount, total.get(name, 0)) for name, amount in share.items()}

"""Divides a cluster among the studies that run on it: a pure function of their demands.

Priorities are strict: a study gets nothing that a study of higher priority could use. Studies of
equal priority share by dominant resources: the next slot goes to the study that has the least.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Amounts = Mapping[str, float]
"""Amounts by resource: `cpu` in cores, `gpu` in GPUs."""
_TOLERANCE = 1e-9
"""Ten tenths of a GPU must count as one in spite of rounding."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The slots that a study could use now, with its priority and its quota."""

    study: str
    priority: int
    """A higher number goes first."""
    share: Amounts
    """The amounts of one slot, which is room for the worker of a trial or of merge jobs."""
    quota: Amounts
    """The amounts that the study may hold at most; a resource without an entry is not limited."""
    num_wanted: int
    """The slots that the study could fill now."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """Another study on the cluster."""

    study: str
    priority: int
    num_slots: int
    """The slots that the study was given, of its own size of slots."""


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """The part of the cluster that a study may use."""

    num_slots: int
    neighbours: tuple[Neighbour, ...] = ()


def allot(demands: Sequence[Demand], *, total: Amounts) -> list[Allotment]:
    """Divides a cluster; returns the studies' parts in the order of their demands.

    Resources that no study wants now are open to all: any study may take them before it has
    reported that it wants more. If two studies take the same resources, the next division
    corrects it.

    Args:
        demands: The studies in the order of their arrival, which decides between equals.
        total: The amounts of the cluster.

    Source: Ghodsi et al. 2011, "Dominant Resource Fairness", algorithm 1, within each priority.
    Here demands are bounded, so the filling ends when they are met.
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
    """Returns how many slots fit into limits, None if no resource of a slot is limited."""
    bounds = [within[name] / amount for name, amount in share.items() if amount and name in within]
    return int(min(bounds) + _TOLERANCE) if bounds else None


def allotment_text(allotment: Allotment, *, max_slots: int) -> str:
    """Returns a text on the other studies and the study's part; empty if the study is alone.

    Args:
        allotment: The part that the study may use.
        max_slots: The slots that the study could use if it were alone.
    """
    if not allotment.neighbours:
        return ""
    if allotment.num_slots:
        others = _named(allotment.neighbours)
        num_slots = allotment.num_slots
        return f"shares the cluster with {others}: may use {num_slots} of {max_slots} slots"
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
    """Gives slots to studies of one priority until none of them can take another slot.

    Changes `slots` and `free` in place.
    """
    shares = {index: _bounded(demands[index].share, total=total) for index in level}
    limits = {index: _max_wanted(demands[index]) for index in level}

    def takes_another(index: int) -> bool:
        share = shares[index]
        has_room = all(free[name] + _TOLERANCE >= amount for name, amount in share.items())
        return slots[index] < limits[index] and has_room and any(share.values())

    def dominant_share(index: int) -> float:
        return slots[index] * max(
            amount / total[name] for name, amount in shares[index].items() if amount
        )

    while takers := [index for index in level if takes_another(index)]:
        taker = min(takers, key=dominant_share)
        slots[taker] += 1
        for name, amount in shares[taker].items():
            free[name] -= amount


def _max_wanted(demand: Demand) -> int:
    by_quota = num_fitting(demand.share, within=demand.quota)
    return demand.num_wanted if by_quota is None else min(demand.num_wanted, by_quota)


def _open_to(demand: Demand, *, held: int, free: Amounts, total: Amounts) -> int:
    """Returns how many more slots of unwanted resources a study may take."""
    num_free = num_fitting(_bounded(demand.share, total=total), within=free) or 0
    by_quota = num_fitting(demand.share, within=demand.quota)
    return num_free if by_quota is None else max(0, min(num_free, by_quota - held))


def _bounded(share: Amounts, *, total: Amounts) -> Amounts:
    """Returns a slot's amounts, at most those of the cluster: a larger slot counts as all of it."""
    return {name: min(amount, total.get(name, 0)) for name, amount in share.items()}

"""Finds the settings that differ in their steps alone, among which merges choose steps per task."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.groups import Group
from orchestrator.plan.settings import Setting
from workers.specs.expert import ExpertSpec
from workers.specs.snapshots import Snapshots, StepRule

Experts = Mapping[str, ExpertSpec]
"""The expert of every task."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The settings that differ in their steps alone."""

    by_steps: Mapping[int, Experts]
    """By the number of steps, ascending; two or more."""

    def snapshots(self, group: Group, *, rule: StepRule) -> Snapshots:
        """Returns the snapshots of a group's tasks."""
        experts = self.by_steps.values()
        return Snapshots(
            rule=rule, experts=tuple(tuple(each[task] for task in group.tasks) for each in experts)
        )


def families(
    settings: Sequence[Setting], *, experts: Sequence[Experts]
) -> tuple[Family | None, ...]:
    """Returns for each setting the family whose chosen merges stand there; None at most settings.

    They stand at the settings with the most steps of a family, whatever the size of the groups: a
    merge that chooses among snapshots needs the longest training, and has the shorter ones for
    nothing. Pools have none, as the steps of their further experts are fixed.
    """
    found: dict[Hashable, dict[int, Experts]] = {}
    places = [_place(setting) for setting in settings]
    for place, by_task in zip(places, experts, strict=True):
        if place is not None:
            key, steps = place
            found.setdefault(key, {}).setdefault(steps, by_task)
    made = {
        key: Family(by_steps=dict(sorted(by_steps.items())))
        for key, by_steps in found.items()
        if len(by_steps) > 1
    }
    return tuple(
        made.get(place[0]) if place is not None and place[1] == max(found[place[0]]) else None
        for place in places
    )


def _place(setting: Setting) -> tuple[Hashable, int] | None:
    """Returns the family of a setting, and its steps; None for a pool, or where tasks differ."""
    point = setting.shared_point
    if point is None or setting.pool is not None:
        return None
    return (replace(point.canonical(), steps=0), setting.base), point.steps

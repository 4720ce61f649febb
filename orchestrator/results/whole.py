"""Finds the means that can be compared with one another, as they are over the same groups.

Groups differ in difficulty more than methods do: a method that lacks the hardest group would look
better than one that has them all.
"""

import math
from collections.abc import Sequence

from orchestrator.plan.settings import NUM_TASKS_AXIS
from orchestrator.results.means import SettingMean


def whole(settings: Sequence[SettingMean]) -> tuple[SettingMean, ...]:
    """Returns the means over all groups that any of the settings has, in their order.

    On the axis of the number of tasks, each value has groups of its own.
    """
    expected = _expected(settings)
    return tuple(each for each in settings if each.groups == expected[_kind(each)])


def partial_texts(settings: Sequence[SettingMean]) -> list[str]:
    """Returns a text for each mean that lacks groups: `ties at lr=0.1 (2 of 3 groups)`."""
    expected = _expected(settings)
    return [
        f"{each.method} at {each.setting} ({len(each.groups)} of {num} groups)"
        for each in settings
        if len(each.groups) < (num := len(expected[_kind(each)]))
    ]


def best_accuracy(settings: Sequence[SettingMean]) -> float:
    """Returns the greatest macro accuracy of the means over all groups; NaN if none is finite."""
    accuracies = [each.macro.accuracy.mean for each in whole(settings)]
    return max(filter(math.isfinite, accuracies), default=math.nan)


def _expected(settings: Sequence[SettingMean]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for each in settings:
        found[_kind(each)] = found.get(_kind(each), frozenset()) | each.groups
    return found


def _kind(setting: SettingMean) -> str:
    """Returns a key that settings with the same planned groups share."""
    return setting.value if setting.axis == NUM_TASKS_AXIS else ""

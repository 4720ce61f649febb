"""Intervals of a number over groups, tasks and settings, of which the widest is the one to quote.

Groups share tasks and settings, so that an interval over groups alone is too narrow. Resampling
them is therefore shown beside two ranges: of the numbers that remain when all groups with one task
are left out, for each task, and when one setting is left out, for each setting. Of many settings,
some are left out together, so that the time grows with their number and not with its square.

Source: the bootstrap is the percentile method of Efron (1979). The two ranges are descriptions
without a level.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.theory.panel import Array, Mask

Indices = npt.NDArray[np.int64]

LEVEL = 0.95
NUM_DRAWS = 2000
"""Draws of the bootstrap; its quantiles then have a standard error of about 0.5 % in level."""
MAX_PARTS = 128
"""Parts of the settings that are left out in turn; more settings share a part."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A range of a number, and the sampling that it stands for."""

    low: float
    high: float
    over: str
    """`groups`, `tasks` or `settings`."""

    @property
    def width(self) -> float:
        """The length of the range; NaN if there is none."""
        return self.high - self.low


NONE = Interval(low=math.nan, high=math.nan, over="none")
"""The interval of a number that has none, as that of a single group."""


def widest(intervals: Mapping[str, Interval]) -> Interval:
    """Returns the widest of the intervals that exist; `NONE` if none does."""
    known = [each for each in intervals.values() if math.isfinite(each.width)]
    return max(known, key=lambda each: each.width, default=NONE)


Statistic = Callable[[Indices, Indices], Array]
"""Returns a number for each of several samples: of the settings (S',) and the groups (draws, G')
whose indices it gets, in which a group may occur several times. NaN where there is no number."""


def three_intervals(
    statistic: Statistic, *, members: Mask, num_settings: int, num_draws: int = NUM_DRAWS
) -> dict[str, Interval]:
    """Returns the intervals of a statistic over groups, tasks and settings.

    Args:
        statistic: The statistic.
        members: (G, T): whether the group has the task.
        num_settings: The number of settings.
        num_draws: Draws of the bootstrap over groups.
    """
    settings, groups = np.arange(num_settings), np.arange(len(members))
    without_task = [np.flatnonzero(~has) for has in members.T if has.any()]
    tasks = [statistic(settings, rest[None])[0] for rest in without_task if len(rest)]
    without_setting = [np.delete(settings, part) for part in parts_of(num_settings)]
    draws = group_draws(len(members), num_draws=num_draws)
    return {
        "groups": _quantiles(statistic(settings, draws)) if len(draws) else NONE,
        "tasks": _range(np.array(tasks), over="tasks"),
        "settings": _range(
            np.array([statistic(rest, groups[None])[0] for rest in without_setting if len(rest)]),
            over="settings",
        ),
    }


def parts_of(num_settings: int) -> list[Indices]:
    """Returns the settings to leave out in turn: each by itself, or in at most `MAX_PARTS` parts.

    Settings next to each other, which are often alike, are in different parts.
    """
    num_parts = min(num_settings, MAX_PARTS)
    return [np.arange(part, num_settings, num_parts) for part in range(num_parts)]


def group_draws(num_groups: int, *, num_draws: int = NUM_DRAWS) -> Indices:
    """Returns the indices of the groups in each draw of the bootstrap, as (draws, G).

    There are no draws of a single group.
    """
    if num_groups < 2:  # noqa: PLR2004 resampling one group gives it again
        return np.zeros((0, num_groups), dtype=np.int64)
    return np.random.default_rng(0).integers(num_groups, size=(num_draws, num_groups))


def _quantiles(numbers: Array) -> Interval:
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return NONE
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(finite, (tail, 1 - tail))
    return Interval(low=float(low), high=float(high), over="groups")


def _range(numbers: Array, *, over: str) -> Interval:
    finite = numbers[np.isfinite(numbers)]
    if len(finite) < 2:  # noqa: PLR2004 one number has no range
        return NONE
    return Interval(low=float(finite.min()), high=float(finite.max()), over=over)

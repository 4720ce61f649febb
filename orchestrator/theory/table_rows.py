"""Rows of the theory tables, and notes on everything that could not be computed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.theory.intervals import Interval, widest

Columns = dict[str, Any]
"""A row of a theory table."""


@dataclass(frozen=True)
class Note:
    """A sentence on something that could not be computed, and why."""

    topic: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one table, and the notes on what is missing in it."""

    rows: list[Columns] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def interval_columns(intervals: Mapping[str, Interval], *, of: Interval | None = None) -> Columns:
    """Returns the columns of a number's intervals: the widest one, then each by its name.

    Args:
        intervals: The intervals by name.
        of: The interval to quote; by default the widest.
    """
    quoted = widest(intervals) if of is None else of
    columns: Columns = {"low": or_none(quoted.low), "high": or_none(quoted.high)}
    columns["over"] = quoted.over
    for name, each in intervals.items():
        columns |= {f"{name}_low": or_none(each.low), f"{name}_high": or_none(each.high)}
    return columns


def or_none(number: float) -> float | None:
    """Returns a number, or None for one that does not exist."""
    return number if math.isfinite(number) else None

"""Rows of the theory tables, and notes on everything that could not be computed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.theory.intervals import Interval, widest

Columns = dict[str, Any]
"""A row of a theory table."""
_LEAST = 1e-9


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


def interval_text(row: Mapping[str, object]) -> str:
    """Returns the widest interval of a row with its name; `no interval` where there is none."""
    low, high = row["low"], row["high"]
    if not isinstance(low, float) or not isinstance(high, float):
        return "(no interval)"
    return f"[{_short(low)}, {_short(high)} over {row['over']}]"


def signed(value: float) -> str:
    """Returns a difference with its sign and three decimals; a small one with two digits."""
    text = _short(value)
    return text if text.startswith("-") else f"+{text}"


def _short(value: float) -> str:
    if abs(value) < _LEAST:
        return "0.000"  # rounding noise of equal numbers
    return f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2g}"  # noqa: PLR2004

"""Writes the tables of merges' choices on validation images: parameters, and steps of experts."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from eval.counts import counted
from orchestrator.report.markup import HtmlCell, table
from orchestrator.report.wording import MISSING, loss_text
from orchestrator.results.means import Row, ordered_values, spread
from orchestrator.results.schema import TUNING
from workers.artifacts.metrics import TriedPoint
from workers.specs.snapshots import STEPS
from workers.specs.tuning import point_text

MAX_ROWS = 200
"""Settings that the table of a method shows; results.parquet has all."""
_TRIED, _CHOSEN = "tried", "chosen"


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The choice of one merge."""

    chosen: Mapping[str, float]
    tried: Sequence[TriedPoint]


def tuning_tables(merges: pa.Table) -> dict[str, str]:
    """Returns a table for each method with tuned parameters, with a row per setting.

    A setting that several axes share has one row.

    Args:
        merges: The result table of a study.
    """
    if TUNING[0].name not in merges.column_names:
        return {}
    settings: dict[str, dict[tuple[str, str], dict[str, _Choice]]] = {}
    for row in merges.filter(pc.is_valid(merges[_TRIED])).to_pylist():
        if STEPS in row[_CHOSEN]:
            continue
        by_setting = settings.setdefault(row["method"], {})
        by_setting.setdefault((row["axis"], row["value"]), {})[row["group"]] = _choice(row)
    return {method: _method_table(by_setting) for method, by_setting in settings.items()}


def steps_tables(merges: pa.Table) -> dict[str, str]:
    """Returns a table for each method that chooses steps, with a row per setting and group.

    Args:
        merges: The result table of a study.
    """
    if TUNING[0].name not in merges.column_names:
        return {}
    rows: dict[str, list[list[HtmlCell]]] = {}
    for row in merges.filter(pc.is_valid(merges[_TRIED])).to_pylist():
        if STEPS in row[_CHOSEN]:
            rows.setdefault(row["method"], []).append(_steps_row(row))
    head = (
        "axis",
        "value",
        "group",
        "steps of each task, and values",
        "loss",
        "best common",
        "tried",
    )
    return {method: table(head, each[:MAX_ROWS]) for method, each in rows.items()}


def _steps_row(row: Row) -> list[HtmlCell]:
    choice = _choice(row)
    common = [
        each
        for each in choice.tried
        if each.values.keys() == choice.chosen.keys()
        and len({value for name, value in each.values.items() if name.startswith(STEPS)}) == 1
    ]
    best = min((each.loss for each in common if math.isfinite(each.loss)), default=math.nan)
    steps_first = sorted(choice.chosen.items(), key=lambda item: not item[0].startswith(STEPS))
    steps = ", ".join(f"{name.removeprefix(STEPS)} {count:g}" for name, count in steps_first)
    texts = (row["axis"], row["value"], row["group"], steps)
    numbers = (loss_text(row["validation_loss"]), loss_text(best), str(len(choice.tried)))
    return [
        *(HtmlCell(text=text, css="text") for text in texts),
        *(HtmlCell(text=number) for number in numbers),
    ]


def _choice(row: Row) -> _Choice:
    tried = [TriedPoint.from_json(each) for each in json.loads(row[_TRIED])]
    chosen = next(each for each in tried if point_text(each.values) == row[_CHOSEN])
    return _Choice(chosen=chosen.values, tried=tried)


def _method_table(by_setting: Mapping[tuple[str, str], Mapping[str, _Choice]]) -> str:
    first = next(iter(next(iter(by_setting.values())).values()))
    names = list(first.chosen)
    columns = [point_text(each.values) for each in first.tried]
    shown = [text.partition("=")[2] for text in columns] if len(names) == 1 else columns
    head = ("axis", "value", "groups", *(f"{name} chosen" for name in names), "at an end", *shown)
    rows = [
        _setting_row(axis, value, list(by_setting[axis, value].values()))
        for axis in dict.fromkeys(axis for axis, _ in by_setting)
        for value in ordered_values(each for of, each in by_setting if of == axis)
    ]
    over = (("", 3), ("mean ± deviation, least to most", len(names) + 1))
    return table(head, rows[:MAX_ROWS], over=(*over, ("mean validation loss at", len(columns))))


def _setting_row(axis: str, value: str, choices: Sequence[_Choice]) -> list[HtmlCell]:
    names = list(choices[0].chosen)
    num_points = len(choices[0].tried)
    # A loss that is not finite leaves no mean: the other groups may be easier.
    losses = [
        statistics.fmean(choice.tried[place].loss for choice in choices)
        for place in range(num_points)
    ]
    least = min(filter(math.isfinite, losses), default=math.nan)
    num_at_end = sum(_is_at_end(choice) for choice in choices)
    return [
        HtmlCell(text=axis, css="text"),
        HtmlCell(text=value, css="text"),
        HtmlCell(text=str(len(choices))),
        *(HtmlCell(text=_chosen_text([each.chosen[name] for each in choices])) for name in names),
        HtmlCell(text=counted(num_at_end, "group") if num_at_end else ""),
        *(HtmlCell(text=loss_text(loss), css="best" if loss == least else "") for loss in losses),
    ]


def _is_at_end(choice: _Choice) -> bool:
    """Returns whether a chosen value is the least or the greatest of several that were tried."""
    for name, value in choice.chosen.items():
        values = {each.values[name] for each in choice.tried}
        if len(values) > 1 and value in (min(values), max(values)):
            return True
    return False


def _chosen_text(values: Sequence[float]) -> str:
    found = spread(values)
    # Rounded, because the deviation of equal values is not always zero in floats.
    deviation = MISSING if math.isnan(found.std) else f"{round(found.std, 9):.3g}"
    return f"{found.mean:.3g} ± {deviation}, {min(values):g} to {max(values):g}"

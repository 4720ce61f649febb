"""Writes the tables of the experts: accuracies on their own tasks, at every setting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import pyarrow as pa

from orchestrator.report.extremes import expert_ends_table, expert_means_table
from orchestrator.report.markup import HtmlCell, linked, name_cell, paragraph, table
from orchestrator.report.wording import MISSING, loss_text, percent
from orchestrator.results.means import Row, ordered_values, spread
from orchestrator.results.schema import POINT_COLUMNS
from workers.specs.hyperparameters import USED_BY, Hyperparameters

ExpertRows = Mapping[tuple[str, str], Sequence[Row]]
"""Rows of the experts table by task and value."""
Column = tuple[str, ...]
"""The values that share a column, because all tasks have the same experts at them."""

MAX_ROWS = 2000
"""Experts times values of an axis up to which the page shows every one of them."""
_DEFAULTS = {
    each.name: each.default for each in fields(Hyperparameters) if each.name not in USED_BY
}
"""Values of hyperparameters that the page does not mention."""


def expert_tables(experts: pa.Table) -> dict[str, str]:
    """Returns a table for each axis, with a row per task and a column per value.

    Values with the same experts share one column, for example those of the axis `num_tasks`. An
    axis with more than `MAX_ROWS` rows has means over its values, the best and the worst experts.
    """
    by_axis: dict[str, list[Row]] = {}
    for row in experts.to_pylist():
        by_axis.setdefault(row["axis"], []).append(row)
    return {axis: _axis_table(axis, rows) for axis, rows in by_axis.items()}


def _axis_table(axis: str, rows: Sequence[Row]) -> str:
    if len(rows) > MAX_ROWS:
        num_experts = len({row["expert_id"] for row in rows})
        text = (
            f"Means over the values, and the best and the worst of {num_experts:,} experts. "
            "All are in experts.parquet, beside this page."
        )
        return (
            linked(paragraph(text, css="note")) + expert_means_table(rows) + expert_ends_table(rows)
        )
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["task"], row["value"]), []).append(row)
    tasks = sorted({row["task"] for row in rows})
    columns = _columns(cells, tasks, ordered_values(row["value"] for row in rows))
    head = ["task", "classes", "chance, %", "base, same head, %"]
    head += [f"{axis}={', '.join(values)}" for values in columns]
    body = [_task_row(task, cells, columns) for task in tasks]
    return table(head, [*body, _mean_row(tasks, cells, columns)])


def _columns(cells: ExpertRows, tasks: Sequence[str], values: Sequence[str]) -> list[Column]:
    """Groups consecutive values into one column if every task has the same experts at them."""
    columns: list[Column] = []
    for value in values:
        if columns and all(_same_experts(cells, task, columns[-1], value) for task in tasks):
            columns[-1] = (*columns[-1], value)
        else:
            columns.append((value,))
    return columns


def _same_experts(cells: ExpertRows, task: str, column: Column, value: str) -> bool:
    mine = {row["expert_id"] for row in cells.get((task, value), ())}
    theirs = {row["expert_id"] for row in _members(cells, task, column)}
    return not mine or not theirs or mine == theirs


def _members(cells: ExpertRows, task: str, column: Column) -> Sequence[Row]:
    """Returns the experts of a task at the first of a column's values that has any."""
    return next((cells[task, value] for value in column if (task, value) in cells), ())


def _task_row(task: str, cells: ExpertRows, columns: Sequence[Column]) -> list[HtmlCell]:
    known = [row for column in columns for row in _members(cells, task, column)]
    num_classes = known[0]["num_classes"]
    return [
        name_cell(task),
        HtmlCell(text=str(num_classes)),
        HtmlCell(text=percent(1 / num_classes)),
        HtmlCell(text=_range([row["base_accuracy"] for row in known])),
        *(_expert_cell(_members(cells, task, column)) for column in columns),
    ]


def _mean_row(tasks: Sequence[str], cells: ExpertRows, columns: Sequence[Column]) -> list[HtmlCell]:
    by_column = [
        [row for task in tasks for row in _members(cells, task, column)] for column in columns
    ]
    num_classes = {row["task"]: row["num_classes"] for rows in by_column for row in rows}
    base_accuracies = [_mean([row["base_accuracy"] for row in rows]) for rows in by_column]
    return [
        name_cell("mean over tasks", css="reference"),
        HtmlCell(text=""),
        HtmlCell(text=percent(_mean([1 / num for num in num_classes.values()]))),
        HtmlCell(text=_range(base_accuracies)),
        *(_mean_cell(rows, num_tasks=len(tasks)) for rows in by_column),
    ]


def _mean_cell(rows: Sequence[Row], *, num_tasks: int) -> HtmlCell:
    accuracy = spread(row["accuracy"] for row in rows)
    num_known = len({row["task"] for row in rows})
    text = percent(accuracy.mean)
    return HtmlCell(text=text if num_known == num_tasks else f"{text} ({num_known} of {num_tasks})")


def _expert_cell(rows: Sequence[Row]) -> HtmlCell:
    if not rows:
        return HtmlCell(text=MISSING)
    text = percent(_mean([row["accuracy"] for row in rows]))
    if len(rows) > 1:
        text += f" (mean of {len(rows)})"
    num_diverged = sum(row["outcome"] == "diverged" for row in rows)
    if num_diverged:
        text += " diverged" if len(rows) == 1 else f", {num_diverged} diverged"
    return HtmlCell(text=text, css="diverged" if num_diverged else "", title=_title(rows[0]))


def _title(row: Row) -> str:
    shown = [name for name in POINT_COLUMNS if row[name] not in (None, _DEFAULTS.get(name))]
    point = ", ".join(f"{name}={row[name]}" for name in shown)
    return f"{row['expert_id']}: {point}, loss {loss_text(row['loss'])}"


def _range(fractions: Sequence[float | None]) -> str:
    finite = [f for f in fractions if f is not None and math.isfinite(f)]
    if not finite:
        return MISSING
    return " to ".join(dict.fromkeys((percent(min(finite)), percent(max(finite)))))


def _mean(fractions: Sequence[float | None]) -> float:
    return spread(fractions).mean

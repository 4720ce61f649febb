"""The tables of the experts: accuracy of every expert on its own task, at every setting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from orchestrator.report.markup import Cell, name_cell, table
from orchestrator.report.wording import MISSING, loss_text, percent
from orchestrator.results.means import ordered_values, spread
from orchestrator.results.schema import POINT_COLUMNS
from workers.specs.hyperparameters import USED_BY, Hyperparameters

Row = Mapping[str, Any]
Cells = Mapping[tuple[str, str], Sequence[Row]]

_DEFAULTS = {
    each.name: each.default for each in fields(Hyperparameters) if each.name not in USED_BY
}
"""Values that the table leaves unsaid."""


def expert_tables(experts: pa.Table) -> dict[str, str]:
    """Return a table per axis: a row per task, a column per value.

    Values with the same experts, as on the axis of the number of tasks, share one column.
    """
    by_axis: dict[str, list[Row]] = {}
    for row in experts.to_pylist():
        by_axis.setdefault(row["axis"], []).append(row)
    return {axis: _axis_table(axis, rows) for axis, rows in by_axis.items()}


def _axis_table(axis: str, rows: Sequence[Row]) -> str:
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["task"], row["value"]), []).append(row)
    tasks = sorted({row["task"] for row in rows})
    columns = _columns(cells, tasks, ordered_values(row["value"] for row in rows))
    head = ["task", "classes", "chance, %", "base, same head, %"]
    head += [f"{axis}={', '.join(values)}" for values in columns]
    body = [_task_row(task, cells, columns) for task in tasks]
    return table(head, [*body, _mean_row(tasks, cells, columns)])


def _columns(cells: Cells, tasks: Sequence[str], values: Sequence[str]) -> list[tuple[str, ...]]:
    """Join a value to the column before it if no task tells the two apart."""
    columns: list[tuple[str, ...]] = []
    for value in values:
        if columns and all(_same_experts(cells, task, columns[-1], value) for task in tasks):
            columns[-1] = (*columns[-1], value)
        else:
            columns.append((value,))
    return columns


def _same_experts(cells: Cells, task: str, column: tuple[str, ...], value: str) -> bool:
    mine = {row["expert_id"] for row in cells.get((task, value), ())}
    theirs = {row["expert_id"] for row in _members(cells, task, column)}
    return not mine or not theirs or mine == theirs


def _members(cells: Cells, task: str, column: tuple[str, ...]) -> Sequence[Row]:
    """Return the experts of a task in a column: those of the first value that has any."""
    return next((cells[task, value] for value in column if (task, value) in cells), ())


def _task_row(task: str, cells: Cells, columns: Sequence[tuple[str, ...]]) -> list[Cell]:
    known = [row for column in columns for row in _members(cells, task, column)]
    num_classes = known[0]["num_classes"]
    return [
        name_cell(task),
        Cell(text=str(num_classes)),
        Cell(text=percent(1 / num_classes)),
        Cell(text=_range([row["base_accuracy"] for row in known])),
        *(_expert_cell(_members(cells, task, column)) for column in columns),
    ]


def _mean_row(tasks: Sequence[str], cells: Cells, columns: Sequence[tuple[str, ...]]) -> list[Cell]:
    by_column = [
        [row for task in tasks for row in _members(cells, task, column)] for column in columns
    ]
    num_classes = {row["task"]: row["num_classes"] for rows in by_column for row in rows}
    return [
        name_cell("mean over tasks", css="reference"),
        Cell(text=""),
        Cell(text=percent(_mean([1 / num for num in num_classes.values()]))),
        Cell(text=_range([_mean([row["base_accuracy"] for row in rows]) for rows in by_column])),
        *(_mean_cell(rows, num_tasks=len(tasks)) for rows in by_column),
    ]


def _mean_cell(rows: Sequence[Row], *, num_tasks: int) -> Cell:
    accuracy = spread(row["accuracy"] for row in rows)
    num_known = len({row["task"] for row in rows})
    text = percent(accuracy.mean)
    return Cell(text=text if num_known == num_tasks else f"{text} ({num_known} of {num_tasks})")


def _expert_cell(rows: Sequence[Row]) -> Cell:
    if not rows:
        return Cell(text=MISSING)
    text = percent(_mean([row["accuracy"] for row in rows]))
    if len(rows) > 1:
        text += f" (mean of {len(rows)})"
    num_diverged = sum(row["outcome"] == "diverged" for row in rows)
    if num_diverged:
        text += " diverged" if len(rows) == 1 else f", {num_diverged} diverged"
    return Cell(text=text, css="diverged" if num_diverged else "", title=_title(rows[0]))


def _title(row: Row) -> str:
    said = [name for name in POINT_COLUMNS if row[name] not in (None, _DEFAULTS.get(name))]
    point = ", ".join(f"{name}={row[name]}" for name in said)
    return f"{row['expert_id']}: {point}, loss {loss_text(row['loss'])}"


def _range(fractions: Sequence[float | None]) -> str:
    finite = [f for f in fractions if f is not None and math.isfinite(f)]
    if not finite:
        return MISSING
    return " to ".join(dict.fromkeys((percent(min(finite)), percent(max(finite)))))


def _mean(fractions: Sequence[float | None]) -> float:
    return spread(fractions).mean

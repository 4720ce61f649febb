"""Computes means and spreads over the groups, for every setting and method of a result table.

Figures, tables of the report, the terminal and MLflow show these numbers: the averages over the
groups of accuracy, loss and their references, separately for the two means `macro` and `union`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.plan.data_use import use_text
from orchestrator.results.schema import JOINT, JOINT_CALIBRATED, MACRO, MEANS, UNION

DESIGN_AXES = ("grid", "random")
"""Axes whose values are the numbers of points."""
CATEGORICAL_AXES = (*DESIGN_AXES, "seed")
"""Axes whose values are names, even if they look like numbers."""
_SCORE_COLUMNS = (
    "accuracy",
    "loss",
    "normalized_accuracy",
    "expert_accuracy",
    "expert_loss",
    "base_accuracy",
    "base_loss",
)
JOINT_COLUMNS = (JOINT.name, JOINT_CALIBRATED.name)
_SETTING_FIELDS = (
    "axis",
    "value",
    "method",
    "data_use",
    "per_task_modules",
    "num_tasks",
    "num_groups",
)

Row = Mapping[str, Any]
"""A row of one of the tables."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Statistics of one number over the groups of a setting; only finite values count."""

    mean: float
    """Arithmetic mean; NaN if no group has a finite value."""
    std: float
    """Sample standard deviation (ddof=1); NaN for fewer than two groups."""
    stderr: float
    """Standard error of the mean, std / sqrt(num_groups); NaN for fewer than two groups."""
    num_groups: int
    """Groups whose value is finite."""
    num_not_finite: int
    """Groups whose value is NaN, infinite or missing; the numbers above leave them out."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The spreads of one setting and method under one of the two means."""

    accuracy: Spread
    """Accuracy of the merged model, a fraction in [0, 1]."""
    loss: Spread
    """Cross-entropy of the merged model, nats per image."""
    normalized_accuracy: Spread
    """Accuracy divided by the accuracy of the experts."""
    gain: Spread
    """Accuracy minus the accuracy of the base on the same group: the paired difference."""
    expert_accuracy: Spread
    expert_loss: Spread
    base_accuracy: Spread
    base_loss: Spread
    joint_accuracy: Spread | None = None
    """Accuracy where no task is known; None if the study has no joint scores."""
    joint_calibrated_accuracy: Spread | None = None
    """The same with calibrated logits; None if the study does not calibrate."""


@dataclass(frozen=True, kw_only=True)
class SettingMean:
    """The means of one method at one setting over all its groups."""

    axis: str
    value: str
    """The setting's value on the axis, as written in the study."""
    setting: str
    """The setting's name, `lr=0.001`."""
    method: str
    data_use: str
    """The data that the method reads besides weights; `none` for no data."""
    per_task_modules: bool
    """Whether the method keeps modules for each task."""
    num_tasks: int | None
    """Tasks in every group; None where the groups differ in size."""
    groups: frozenset[str]
    """The groups that have the merge. Means over different groups are not compared: see `whole`."""
    macro: Metrics
    """Spreads of the mean over the tasks of a group."""
    union: Metrics
    """Spreads of the mean over all images of a group's joint test set."""

    @property
    def num_groups(self) -> int:
        """The number of groups."""
        return len(self.groups)

    @property
    def use(self) -> str:
        """The data and modules that the method uses, in words; compare only methods of one use."""
        return use_text(self.data_use, per_task_modules=self.per_task_modules)

    def under(self, mean: str) -> Metrics:
        """Returns the spreads of the mean `macro` or `union`."""
        return {MACRO: self.macro, UNION: self.union}[mean]


def setting_means(results: pa.Table) -> tuple[SettingMean, ...]:
    """Returns the means over the groups for every axis, value and method.

    Axes and methods keep the order of their first appearance. Values are sorted if all values of
    their axis are numbers, and keep their order otherwise. Held-out tasks are in neither mean.

    Raises:
        ValueError: The table has several studies, a setting has several bases, or a group appears
            twice under one mean.
    """
    _require_one("study", results["study"].unique().to_pylist())
    is_mean = pc.is_in(results["task"], value_set=pa.array(MEANS))
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for row in results.filter(is_mean).to_pylist():
        cells.setdefault((row["axis"], row["value"], row["method"]), []).append(row)
    return tuple(_setting_mean(cells[key]) for key in _in_plan_order(cells))


def means_table(means: Iterable[SettingMean]) -> pa.Table:
    """Returns a table for other programs, with a row per setting mean and per `macro` and `union`.

    A spread has three columns, for example `loss_mean`, `loss_std` and `loss_num_groups`, the
    groups in which the number is finite. NaN becomes null.
    """
    rows = [
        {
            **{name: getattr(each, name) for name in _SETTING_FIELDS},
            "mean": mean,
            **_columns(each.under(mean)),
        }
        for each in means
        for mean in MEANS
    ]
    return pa.Table.from_pylist(rows)


def spread(values: Iterable[float | None]) -> Spread:
    """Returns mean, standard deviation and standard error of the finite values."""
    given = [math.nan if value is None else value for value in values]
    finite = np.array([value for value in given if math.isfinite(value)], dtype=np.float64)
    num = len(finite)
    std = float(finite.std(ddof=1)) if num > 1 else math.nan
    return Spread(
        mean=float(finite.mean()) if num else math.nan,
        std=std,
        stderr=std / math.sqrt(num) if num else math.nan,
        num_groups=num,
        num_not_finite=len(given) - num,
    )


def ordered_values(values: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct values: sorted if all are numbers, else by first appearance."""
    distinct = tuple(dict.fromkeys(values))
    if numbers_of(distinct) is None:
        return distinct
    return tuple(sorted(distinct, key=float))


def numbers_of(values: Sequence[str]) -> tuple[float, ...] | None:
    """Returns the values as numbers, or None if one of them is not a finite number."""
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _require_one(column: str, found: Iterable[object]) -> None:
    names = sorted(set(map(str, found)))
    if len(names) > 1:
        raise ValueError(
            f"Column {column!r} has {len(names)} values ({', '.join(names[:5])}). Means over "
            f"groups need one {column}: filter the table first."
        )


def _in_plan_order(keys: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    keys = list(keys)
    axes = list(dict.fromkeys(axis for axis, _, _ in keys))
    methods = list(dict.fromkeys(method for _, _, method in keys))
    values = {axis: ordered_values(v for a, v, _ in keys if a == axis) for axis in axes}
    return sorted(
        keys, key=lambda k: (axes.index(k[0]), values[k[0]].index(k[1]), methods.index(k[2]))
    )


def _setting_mean(rows: Sequence[Row]) -> SettingMean:
    first = rows[0]
    for column in ("backbone", "weights", "pretrain_steps"):
        _require_one(column, (row[column] for row in rows))
    by_mean = {mean: [row for row in rows if row["task"] == mean] for mean in MEANS}
    for mean, members in by_mean.items():
        groups = [row["group"] for row in members]
        if len(set(groups)) < len(groups):
            twice = next(group for group in groups if groups.count(group) > 1)
            raise ValueError(
                f"Group {twice!r} appears more than once in the {mean} rows of method "
                f"{first['method']!r} at {first['setting']!r}: remove duplicates first."
            )
    sizes = {row["num_tasks"] for row in rows}
    return SettingMean(
        axis=first["axis"],
        value=first["value"],
        setting=first["setting"],
        method=first["method"],
        data_use=first["data_use"],
        per_task_modules=first["per_task_modules"],
        num_tasks=sizes.pop() if len(sizes) == 1 else None,
        groups=frozenset(row["group"] for row in rows),
        macro=_metrics(by_mean[MACRO]),
        union=_metrics(by_mean[UNION]),
    )


def _metrics(rows: Sequence[Row]) -> Metrics:
    spreads = {name: spread(row[name] for row in rows) for name in _SCORE_COLUMNS}
    joint = {
        name: spread(row[name] for row in rows)
        for name in JOINT_COLUMNS
        if rows and name in rows[0]
    }
    return Metrics(gain=spread(map(_gain, rows)), **spreads, **joint)


def _columns(metrics: Metrics) -> dict[str, float | None]:
    found = {field.name: getattr(metrics, field.name) for field in fields(metrics)}
    spreads = {name: each for name, each in found.items() if each is not None}
    columns = {
        f"{name}_{part}": getattr(each, part)
        for name, each in spreads.items()
        for part in ("mean", "std", "num_groups")
    }
    return {name: None if math.isnan(value) else value for name, value in columns.items()}


def _gain(row: Row) -> float | None:
    if row["accuracy"] is None or row["base_accuracy"] is None:
        return None
    return float(row["accuracy"] - row["base_accuracy"])

"""Prepares charts for MLflow's page: accuracy and loss against an axis, a line per method.

MLflow draws one line per MLflow run. So each method has an MLflow run of kind `curve` on each axis,
whose metric history is the curve: its steps count the values of the axis, and one metric holds the
position on the x axis. A saved view filters these MLflow runs and lists the charts; MLflow keeps it
as a tag of the experiment.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.tracking.mlflow_run import MetricPoint, MlflowRun
from orchestrator.tracking.protocol import EXPERIMENT_ID, NOTE_TAG

_VIEW_TAG = "mlflow.sharedViewState."
_KIND_TAG = "mlflow.experimentKind"  # without it the page shows language-model traces first
_SECTION = "curves"
_FIRST_COLUMNS = ("1", "attributes.`Run Name`")  # MLflow's ids; the first one has the check boxes
_LAST_COLUMNS = ("runDateAndNestInfo", "duration")
_WIDE = 20.0  # ratio of largest to smallest value from which the x axis is logarithmic
# MLflow lists the newest view first: creation times give the order of the study's axes.
_NEWEST_MS = 1_800_000_000_000


@dataclass(frozen=True, kw_only=True)
class AxisView:
    """The charts of one axis."""

    axis: str
    values: Sequence[str]
    """Values as the study writes them; drawn in numerical order if all are numbers."""
    metrics: Sequence[str]
    """The metrics that have a chart each, in this order."""

    @property
    def name(self) -> str:
        """Name of the view in the page's list and in its address."""
        return f"against-{self.axis}"

    @property
    def x_metric(self) -> str | None:
        """Name of the metric that holds the position; None if the values are not numbers.

        MLflow's logarithmic x axis works for steps only, so the metric is for example `log10 lr`.
        """
        numbers = _numbers(self.values)
        if numbers is None:
            return None
        wide = min(numbers) > 0 and max(numbers) >= _WIDE * min(numbers)
        return f"log10 {self.axis}" if wide else self.axis

    def x(self, value: str) -> float:
        """Returns a value's position on the x axis."""
        number = float(value)
        return math.log10(number) if self.x_metric != self.axis else number


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table of MLflow runs with its columns, which MLflow's own page would have to be told."""

    name: str
    """Name of the view in the page's list and in its address."""
    title: str
    kind: str
    """The kind of the MLflow runs that are its rows."""
    tags: tuple[str, ...]
    """Tags that have a column each; the name of an MLflow run always has one."""
    metrics: tuple[str, ...]
    """Metrics that have a column each; the last one sorts the rows, the largest first."""


TABLE_VIEWS = (
    TableView(
        name="settings",
        title="every setting and method",
        kind="setting",
        tags=("method", "setting"),
        metrics=("macro_accuracy_mean", "macro_gain_mean"),
    ),
    TableView(
        name="merges",
        title="every merge",
        kind="merge",
        tags=("method", "setting", "group"),
        metrics=("macro_accuracy", "macro_gain"),
    ),
    TableView(
        name="experts",
        title="every expert",
        kind="expert",
        tags=("task", "settings"),
        metrics=("base_accuracy", "test_accuracy"),
    ),
)


def experiment_tags(views: Sequence[AxisView]) -> dict[str, str]:
    """Returns the experiment's tags that make MLflow's page offer the views."""
    tables = [
        f"[{each.title}]({table_fragment(each, experiment_id=EXPERIMENT_ID)})"
        for each in TABLE_VIEWS
    ]
    charts = [
        f"[{view.metrics[0]} against {view.axis}, by method]"
        f"({view_fragment(view.axis, experiment_id=EXPERIMENT_ID)})"
        for view in views
    ]
    saved = {
        **{f"{_VIEW_TAG}{view.name}": (_chart_title(view), _chart_state(view)) for view in views},
        **{f"{_VIEW_TAG}{each.name}": (each.title, _table_state(each)) for each in TABLE_VIEWS},
    }
    tags = {
        key: _saved_view(title, state=state, created_ms=_NEWEST_MS - place)
        for place, (key, (title, state)) in enumerate(saved.items())
    }
    tags[_KIND_TAG] = "custom_model_development"
    # The page shows one line of a description, and the rest at a click.
    parts = [f"Tables: {', '.join(tables)}", *([f"Charts: {', '.join(charts)}"] if charts else [])]
    return tags | {NOTE_TAG: ". ".join(parts)}


def view_fragment(axis: str, *, experiment_id: str) -> str:
    """Returns the fragment that opens the charts of an axis, to append to the server's address."""
    return _fragment(f"against-{axis}", mode="CHART", experiment_id=experiment_id)


def table_fragment(view: TableView, *, experiment_id: str) -> str:
    """Returns the fragment that opens a table, to append to the server's address."""
    return _fragment(view.name, mode="TABLE", experiment_id=experiment_id)


def _fragment(name: str, *, mode: str, experiment_id: str) -> str:
    query = f"viewStateShareKey={name}&compareRunsMode={mode}&workflowType=machine_learning"
    return f"#/experiments/{experiment_id}/runs?{query}"


def curve_run(
    view: AxisView,
    *,
    method: str,
    means: Mapping[str, Mapping[str, float]],
    start_ms: int,
    end_ms: int,
    tags: Mapping[str, str],
) -> MlflowRun:
    """Returns the MLflow run that draws a method's curves on an axis.

    Args:
        view: The charts of the axis.
        method: The method's label, which the legend shows.
        means: The metrics at each value. MLflow cannot delete a point, so leave a value out until
            all its groups are committed.
        start_ms: Start of the MLflow run and timestamp of all points. It must be the same each time
            the curve is published, for example the study's first commit.
        end_ms: Time of the last commit.
        tags: The tags of every MLflow run of the study.
    """
    points: list[MetricPoint] = []
    for step, value in enumerate(_in_order(view.values)):
        if value not in means:
            continue
        at = {name: means[value][name] for name in view.metrics}
        if view.x_metric:
            at[view.x_metric] = view.x(value)
        points += [
            MetricPoint(name=name, value=y, step=step, timestamp_ms=start_ms)
            for name, y in at.items()
        ]
    return MlflowRun(
        key=f"curve/{view.axis}/{method}",
        kind="curve",
        name=method,
        tags={
            **tags,
            "axis": view.axis,
            "method": method,
            NOTE_TAG: f"Means of {method} at every value of {view.axis}, for the study's charts.",
        },
        metrics=points,
        start_ms=start_ms,
        end_ms=end_ms,
        status="FINISHED",
    )


def _numbers(values: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _in_order(values: Sequence[str]) -> list[str]:
    return sorted(values, key=float) if _numbers(values) else list(values)


def _saved_view(title: str, *, state: Mapping[str, Any], created_ms: int) -> str:
    """Returns a saved view in the format of MLflow 3.17: an envelope around the page's state."""
    envelope = {
        "name": title,
        "createdAt": created_ms,
        "updatedAt": created_ms,
        "state": json.dumps(state, separators=(",", ":")),
    }
    return json.dumps(envelope)


def _chart_title(view: AxisView) -> str:
    return f"{view.metrics[0]} against {view.axis}"


def _chart_state(view: AxisView) -> dict[str, Any]:
    """Returns the page's state that shows the charts of an axis."""
    return {
        "searchFilter": f"tags.kind = 'curve' AND tags.axis = '{view.axis}'",
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunSections": [
            _section(_SECTION, name=f"Against {view.axis}") | {"columns": 2, "cardHeight": 420},
            _section("rest", name="Model metrics"),
        ],
        "compareRunCharts": [_chart(view, metric=metric) for metric in view.metrics]
        # Listed as deleted, so that the page does not add a chart of the position's own history.
        + [_chart(view, metric=view.x_metric) | {"deleted": True}] * (view.x_metric is not None),
        "selectedColumns": [f"metrics.`{metric}`" for metric in view.metrics],
    }


def _table_state(view: TableView) -> dict[str, Any]:
    """Returns the page's state that shows the rows of one kind, with the view's columns."""
    columns = [f"tags.`{tag}`" for tag in view.tags]
    columns += [f"metrics.`{metric}`" for metric in view.metrics]
    return {
        "searchFilter": f"tags.kind = '{view.kind}'",
        "orderByKey": columns[-1],
        "orderByAsc": False,
        "selectedColumns": columns,
        # By default the tags come last, outside a window of usual width, and headings are cut.
        "columnOrder": [*_FIRST_COLUMNS, *columns, *_LAST_COLUMNS],
        "columnWidths": {
            _FIRST_COLUMNS[-1]: 140,
            **dict.fromkeys(columns, 130),
            **{f"metrics.`{metric}`": 20 + 8 * len(metric) for metric in view.metrics},
        },
    }


def _section(uuid: str, *, name: str) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": True, "isReordered": True}


def _chart(view: AxisView, *, metric: str | None) -> dict[str, Any]:
    x_axis = {"xAxisKey": "metric", "selectedXAxisMetricKey": view.x_metric}
    return {
        "type": "LINE",
        "uuid": f"{view.name}/{metric}",
        "metricSectionId": _SECTION,
        "runsCountToCompare": 20,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayPoints": True,
        "lineSmoothness": 0,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
        **(x_axis if view.x_metric else {"xAxisKey": "step"}),
    }

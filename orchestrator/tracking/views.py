"""Charts that are there when MLflow's page opens: accuracy against an axis, a line per method.

MLflow draws a line per run, so each method gets a run of kind `curve` on each axis, whose history
is the curve: the step counts the axis' values, and a metric holds the position on the x axis. A
saved view, which MLflow keeps as a tag of the experiment, filters these runs and lists the charts.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.tracking.mlflow_run import MetricPoint, MlflowRun
from orchestrator.tracking.protocol import EXPERIMENT_ID, NOTE_TAG

_VIEW_TAG = "mlflow.sharedViewState."
_KIND_TAG = "mlflow.experimentKind"  # else the page opens on language-model traces
_SECTION = "curves"
_WIDE = 20.0  # largest over smallest value from which the x axis is logarithmic
_NEWEST_MS = 1_800_000_000_000  # the list of views shows the newest first, as the study's axes


@dataclass(frozen=True, kw_only=True)
class AxisView:
    """The charts of one axis."""

    axis: str
    values: Sequence[str]
    """As written in the study; drawn in numerical order, or in this one if they are not numbers."""
    metrics: Sequence[str]
    """One chart each, the first one first."""

    @property
    def name(self) -> str:
        """Names the view in the page's list and in its address."""
        return f"against-{self.axis}"

    @property
    def x_metric(self) -> str | None:
        """Names the metric that holds the position; None where the values are no numbers.

        MLflow's logarithmic x axis works for steps only, hence `log10 lr` as a metric.
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


def experiment_tags(views: Sequence[AxisView]) -> dict[str, str]:
    """Returns what makes the views appear: pass it to `Tracker.start` with the study's own."""
    links = [
        f"[{view.metrics[0]} against {view.axis}, by method]"
        f"({view_fragment(view.axis, experiment_id=EXPERIMENT_ID)})"
        for view in views
    ]
    tags = {
        f"{_VIEW_TAG}{view.name}": _saved_view(view, created_ms=_NEWEST_MS - place)
        for place, view in enumerate(views)
    }
    tags[_KIND_TAG] = "custom_model_development"
    return tags | {NOTE_TAG: f"Charts: {', '.join(links)}"} if links else tags


def view_fragment(axis: str, *, experiment_id: str) -> str:
    """Returns the part of the address after the server's: it opens the charts of an axis."""
    query = f"viewStateShareKey=against-{axis}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"#/experiments/{experiment_id}/runs?{query}"


def curve_run(
    view: AxisView,
    *,
    method: str,
    means: Mapping[str, Mapping[str, float]],
    start_ms: int,
    end_ms: int,
) -> MlflowRun:
    """Returns the run that draws a method's curves on an axis.

    Args:
        view: The axis; its metrics name the charts.
        method: The method's label, which the legend shows.
        means: The metrics at each value. A point once published cannot be taken back: leave a
            value out until all its groups are there.
        start_ms: The points' timestamp too, so the same each time the curve is published, e.g. the
            study's start.
        end_ms: When the last one was committed.
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
        tags={"axis": view.axis, "method": method},
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


def _saved_view(view: AxisView, *, created_ms: int) -> str:
    """Returns a saved view as MLflow 3.17's page writes it: an envelope around the page's state."""
    state = {
        "searchFilter": f"tags.kind = 'curve' AND tags.axis = '{view.axis}'",
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunSections": [
            _section(_SECTION, name=f"Against {view.axis}") | {"columns": 2, "cardHeight": 420},
            _section("rest", name="Model metrics"),
        ],
        "compareRunCharts": [_chart(view, metric=metric) for metric in view.metrics]
        # The position's own history is no chart: listed as deleted, it is not made again.
        + [_chart(view, metric=view.x_metric) | {"deleted": True}] * (view.x_metric is not None),
        "selectedColumns": [f"metrics.`{metric}`" for metric in view.metrics],
    }
    envelope = {
        "name": f"{view.metrics[0]} against {view.axis}",
        "createdAt": created_ms,
        "updatedAt": created_ms,
        "state": json.dumps(state, separators=(",", ":")),
    }
    return json.dumps(envelope)


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

import json
from collections.abc import Callable
from typing import Any

import pytest
from made_study import made_ledger

from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.study_results import StudyResults
from orchestrator.tracking.protocol import NOTE_TAG
from orchestrator.tracking.study_runs import mlflow_runs
from orchestrator.tracking.views import (
    TABLE_VIEWS,
    AxisView,
    curve_run,
    experiment_tags,
    table_fragment,
    view_fragment,
)


@pytest.fixture
def finished(make_plan: Callable[..., Plan]) -> Ledger:
    """Returns the ledger of a finished study without axes."""
    return made_ledger(make_plan())


SHARED: Any = {"start_ms": 5, "end_ms": 9, "tags": {"kind": "curve"}}
METRICS = ("macro_accuracy_mean", "macro_loss_mean")


def make_view(axis: str = "lr", values: tuple[str, ...] = ("0.1", "0.001", "0.01")) -> AxisView:
    return AxisView(axis=axis, values=values, metrics=METRICS)


def make_means(*values: str) -> dict[str, dict[str, float]]:
    return {value: {METRICS[0]: float(value), METRICS[1]: 1.0} for value in values}


@pytest.mark.parametrize(
    ("values", "x_metric"),
    [
        (("0.001", "0.1"), "log10 lr"),
        (("0.1", "0.2", "0.4"), "lr"),
        (("0", "100"), "lr"),
        (("sgd", "adam"), None),
    ],
)
def test_position_is_logarithmic_only_for_wide_positive_axes(
    values: tuple[str, ...], x_metric: str | None
) -> None:
    """Wide ranges use log10, narrow ones the number, and names their rank."""
    assert make_view(values=values).x_metric == x_metric


def test_curve_has_its_points_in_numerical_order_with_their_positions() -> None:
    """The line does not go back and forth if the study's order does."""
    run = curve_run(
        make_view(),
        method="ties",
        means=make_means("0.1", "0.001", "0.01"),
        start_ms=5,
        end_ms=9,
        tags={"kind": "curve"},
    )
    points = {(m.name, m.step): m.value for m in run.metrics}
    assert [points["log10 lr", step] for step in range(3)] == pytest.approx([-3, -2, -1])
    assert [points[METRICS[0], step] for step in range(3)] == [0.001, 0.01, 0.1]
    assert (run.key, run.name, run.tags["axis"]) == ("curve/lr/ties", "ties", "lr")


def test_curve_leaves_holes_and_later_adds_only_the_missing_point() -> None:
    """A point keeps its step and timestamp when others are added later."""
    early = curve_run(
        make_view(), method="t", means=make_means("0.1"), start_ms=5, end_ms=9, tags={}
    )
    late = curve_run(
        make_view(), method="t", means=make_means("0.1", "0.01"), start_ms=5, end_ms=9, tags={}
    )
    assert set(early.metrics) < set(late.metrics)
    assert {m.step for m in late.metrics} == {1, 2}


def test_views_fit_in_tags_and_name_the_charts() -> None:
    """Each axis has a saved view in MLflow's format, and a link in the description."""
    tags = experiment_tags([make_view(), make_view(axis="steps", values=("100", "200"))])
    envelope = json.loads(tags["mlflow.sharedViewState.against-lr"])
    state = json.loads(envelope["state"])
    shown = [chart for chart in state["compareRunCharts"] if not chart.get("deleted")]
    assert [chart["metricKey"] for chart in shown] == list(METRICS)
    assert {chart["selectedXAxisMetricKey"] for chart in shown} == {"log10 lr"}
    assert "tags.axis = 'lr'" in state["searchFilter"]
    assert view_fragment("steps", experiment_id="{experiment_id}") in tags["mlflow.note.content"]
    assert max(map(len, tags.values())) < 20_000


def test_axis_of_words_is_drawn_by_step() -> None:
    """No chart uses a position metric that the curves do not have."""
    view = make_view(axis="optimizer", values=("sgd", "adam"))
    state = json.loads(
        json.loads(experiment_tags([view])["mlflow.sharedViewState.against-optimizer"])["state"]
    )
    assert {chart["xAxisKey"] for chart in state["compareRunCharts"]} == {"step"}


def test_tables_show_method_setting_accuracy_and_gain_at_once() -> None:
    """Each saved table filters one kind and lists its columns; a link opens it."""
    tags = experiment_tags([])
    for table in TABLE_VIEWS:
        envelope = json.loads(tags[f"mlflow.sharedViewState.{table.name}"])
        state = json.loads(envelope["state"])
        assert state["searchFilter"] == f"tags.kind = '{table.kind}'"
        assert state["orderByKey"] in state["selectedColumns"]
        assert table_fragment(table, experiment_id="{experiment_id}") in tags[NOTE_TAG]
    settings = json.loads(json.loads(tags["mlflow.sharedViewState.settings"])["state"])
    columns = {"tags.`method`", "tags.`setting`", "metrics.`macro_accuracy_mean`"}
    assert {*columns, "metrics.`macro_gain_mean`"} <= set(settings["selectedColumns"])


def test_study_without_axes_has_tables_but_no_charts() -> None:
    """There is nothing to draw."""
    assert "Charts" not in experiment_tags([])[NOTE_TAG]
    assert experiment_tags([])["mlflow.experimentKind"] == "custom_model_development"


def test_columns_of_the_tables_are_those_that_the_runs_have(finished: Ledger) -> None:
    """A column without values would be an empty one."""
    committed = finished.committed()
    results = StudyResults.of(committed)
    runs = list(mlflow_runs(committed, results=results, leave_out=pytest.fail))
    for table in TABLE_VIEWS:
        rows = [run for run in runs if run.kind == table.kind]
        assert rows
        for run in rows:
            assert set(table.tags) <= set(run.tags)
            assert set(table.metrics) <= {point.name for point in run.metrics}

import json

import pytest

from orchestrator.tracking.views import AxisView, curve_run, experiment_tags, view_fragment

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
        make_view(), method="ties", means=make_means("0.1", "0.001", "0.01"), start_ms=5, end_ms=9
    )
    points = {(m.name, m.step): m.value for m in run.metrics}
    assert [points["log10 lr", step] for step in range(3)] == pytest.approx([-3, -2, -1])
    assert [points[METRICS[0], step] for step in range(3)] == [0.001, 0.01, 0.1]
    assert (run.key, run.name, run.tags["axis"]) == ("curve/lr/ties", "ties", "lr")


def test_curve_leaves_holes_and_later_adds_only_the_missing_point() -> None:
    """A point keeps its step and timestamp when others are added later."""
    early = curve_run(make_view(), method="t", means=make_means("0.1"), start_ms=5, end_ms=9)
    late = curve_run(make_view(), method="t", means=make_means("0.1", "0.01"), start_ms=5, end_ms=9)
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


def test_study_without_axes_has_no_description() -> None:
    """Without charts, the description of the page is left alone."""
    assert experiment_tags([]) == {"mlflow.experimentKind": "custom_model_development"}

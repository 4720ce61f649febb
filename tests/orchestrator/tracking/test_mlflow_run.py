import math

import pytest

from orchestrator.tracking.mlflow_run import (
    MAX_NAME_CHARS,
    MAX_PARAM_CHARS,
    MAX_TAG_CHARS,
    MetricPoint,
    MlflowRun,
)


def make_run(**changes: object) -> MlflowRun:
    fields = {
        "key": "expert/ab12",
        "kind": "expert",
        "name": "digits lr=0.1",
        "start_ms": 1,
        "end_ms": 2,
        "status": "FINISHED",
        **changes,
    }
    return MlflowRun(**fields)  # type: ignore[arg-type]


def point(name: str, value: float = 0.5) -> MetricPoint:
    return MetricPoint(name=name, value=value, step=3, timestamp_ms=4)


def test_run_comes_back_from_its_text() -> None:
    """Unicode, infinities and binary artifacts survive the pipe."""
    run = make_run(
        parent_key="setting/lr=0.1/ties",
        params={"lr": "0.1"},
        tags={"task": "日本語\n"},
        metrics=(point("loss", math.inf), point("accuracy")),
        artifacts={"figures/a.png": bytes(range(256))},
    )
    again = MlflowRun.from_json(run.to_json())
    assert "\n" not in run.to_json()
    assert again.to_json() == run.to_json()
    assert again.artifacts == run.artifacts
    assert tuple(again.metrics) == run.metrics


def test_digest_depends_on_the_content_and_not_on_the_order_of_names() -> None:
    """Equal content has one digest; a changed value has another."""
    run = make_run(params={"lr": "0.1", "seed": "0"})
    assert make_run(params={"seed": "0", "lr": "0.1"}).digest == run.digest
    assert make_run(params={"lr": "0.1", "seed": "1"}).digest != run.digest
    assert make_run(artifacts={"a": b"1"}).digest != make_run(artifacts={"a": b"2"}).digest


def test_content_that_mlflow_refuses_is_refused_at_once_in_one_message() -> None:
    """The error comes when the driver makes the MLflow run, not with the server's reply."""
    with pytest.raises(ValueError, match="expert/ab12") as caught:
        make_run(
            params={"lr (max)": "0.1"},
            metrics=[point("acc%")],
            parent_key="expert/ab12",
            artifacts={"../escape.png": b""},
        )
    for part in ("lr (max)", "acc%", "its own parent", "../escape.png"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="quotation mark"):
        make_run(parent_key="setting/it's")


def test_long_texts_are_cut_where_mlflow_would_refuse_them() -> None:
    """A long list of tasks or settings must not stop a run from being shown."""
    long = "x" * 10_000
    fitted = make_run(name=long, params={"a": long, "b": "1"}, tags={"c": long}).fitted()
    assert len(fitted.name) == MAX_NAME_CHARS
    assert {name: len(text) for name, text in fitted.params.items()} == {
        "a": MAX_PARAM_CHARS,
        "b": 1,
    }
    assert fitted.tags["c"] == f"{long[: MAX_TAG_CHARS - 3]}..."
    short = make_run(params={"a": "1"}, tags={"b": "2"})
    assert short.fitted().digest == short.digest


def test_thirty_metric_names_pass_and_thirty_one_do_not() -> None:
    """The limit counts names, not points."""
    make_run(metrics=[point(f"m{i % 30}") for i in range(90)])
    with pytest.raises(ValueError, match="more than 30 metric names"):
        make_run(metrics=[point(f"m{i}") for i in range(31)])

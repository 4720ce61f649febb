"""The choice of parameters in the tables, the report and MLflow."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from made_study import page_of

from orchestrator.cli.verbs.plan import tuning_lines
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.schema import RESULTS_SCHEMA, TUNING
from orchestrator.results.study_results import StudyResults
from orchestrator.tracking.study_runs import mlflow_run_of
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import TriedPoint, TuningMetrics

Make = Callable[..., Manifest]
TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
MERGES = [{"method": "average"}, {"method": "ties", "scaling": {"tune": [0.5, 1.0, 2.0]}}]
LOSSES = (2.0, 1.25, 1.5)


def tuning_of(losses: Sequence[float]) -> TuningMetrics:
    tried = tuple(
        TriedPoint(values={"scaling": scaling}, loss=loss, accuracy=0.25)
        for scaling, loss in zip((0.5, 1.0, 2.0), losses, strict=True)
    )
    best = min(tried, key=lambda each: each.loss)
    return TuningMetrics(chosen=best.values, tried=tried, num_images=40)


@pytest.fixture
def ledger(make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make) -> Ledger:
    """Returns three pairs, whose TIES chose 1.0, 1.0 and 0.5."""
    plan = make_plan(tasks=TASKS, merge=MERGES)
    manifests = [expert_manifest(each) for each in plan.experts.values()]
    curves = iter([LOSSES, LOSSES, (1.0, 1.25, 1.5)])
    for spec in plan.merges.values():
        made = merge_manifest(spec)
        if spec.tuning is not None:
            tuning = tuning_of(next(curves)).to_json()
            made = replace(made, metrics={**made.metrics, "tuning": tuning})
        manifests.append(made)
    return Ledger(plan, manifests=manifests)


def rows_of(ledger: Ledger, method: str) -> list[dict[str, Any]]:
    table = StudyResults.of(ledger.committed()).merges
    return [row for row in table.to_pylist() if row["method"] == method]


def test_tuned_merges_have_their_choice_in_every_row_and_the_curve_in_one(ledger: Ledger) -> None:
    """The curve stands in the macro row alone, and holds every value that was tried."""
    rows = rows_of(ledger, "ties (scaling tuned)")
    first = [row for row in rows if row["group"] == rows[0]["group"]]
    assert {row["chosen"] for row in first} == {"scaling=1.0"}
    assert {row["validation_loss"] for row in first} == {1.25}
    assert {(row["num_tried"], row["validation_images"]) for row in first} == {(3, 40)}
    curves = {row["task"]: json.loads(row["tried"]) for row in first if row["tried"]}
    assert list(curves) == ["macro"]
    assert [each["loss"] for each in curves["macro"]] == list(LOSSES)


def test_other_merges_have_no_choice_and_other_studies_no_columns(
    ledger: Ledger, make_plan: Callable[..., Plan]
) -> None:
    """The columns are null for a fixed merge, and absent where nothing is tuned."""
    names = [field.name for field in TUNING]
    assert {row[name] for row in rows_of(ledger, "average") for name in names} == {None}
    untuned = Ledger(make_plan(), manifests=[])
    assert StudyResults.of(untuned.committed()).merges.schema == RESULTS_SCHEMA


def test_report_shows_chosen_values_and_the_loss_at_each(ledger: Ledger) -> None:
    """Mean, deviation, range and ends of the choices; the least mean loss is bold."""
    page = page_of(ledger)
    section = page[page.index('id="tuning"') : page.index('id="facts"')]
    assert '<a href="#tuning">Tuned parameters</a>' in page
    assert "0.833 ± 0.289, 0.5 to 1" in section
    assert "1 group" in section
    assert '"best">1.250' in section


def test_report_without_tuning_has_no_such_section(make_plan: Callable[..., Plan]) -> None:
    """A study that tunes nothing keeps its page."""
    assert 'id="tuning"' not in page_of(Ledger(make_plan(), manifests=[]))


def test_mlflow_has_the_choice_and_the_curve_by_step(ledger: Ledger) -> None:
    """Values that were tried are parameters; what was measured are metrics."""
    spec = next(each for each in ledger.plan.merges.values() if each.tuning is not None)
    run = mlflow_run_of(ledger.committed().merges[spec.id], ledger=ledger)
    assert run is not None
    assert run.params["tuned_scaling"] == "0.5 1.0 2.0"
    assert "method_scaling" not in run.params
    points = [(point.name, point.step, point.value) for point in run.metrics]
    assert ("chosen_scaling", 0, 1.0) in points
    assert [point for point in points if point[0] == "validation_loss"] == [
        ("validation_loss", step, loss) for step, loss in enumerate(LOSSES)
    ]
    assert ("tried_scaling", 2, 2.0) in points


def test_plan_says_how_many_values_are_tried_and_at_which_cost(ledger: Ledger) -> None:
    """One line for each method that tunes."""
    (line,) = tuning_lines(ledger.plan)
    assert line == (
        "tuning of ties (scaling tuned): 3 values, each on at most 20 validation images per task, "
        "and 1 further merge for each merge"
    )

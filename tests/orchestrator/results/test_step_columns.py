"""Chosen steps in the tables, the report, MLflow and the lines of `plan`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from made_study import page_of

from orchestrator.cli.verbs.plan import tuning_lines
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.study_results import StudyResults
from orchestrator.tracking.study_runs import mlflow_run_of
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import TriedPoint, TuningMetrics

Make = Callable[..., Manifest]
TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20}
FINETUNE = {"defaults": {"steps": 20, "lr": 0.01, "batch_size": 8}, "axes": {"steps": [5, 20]}}
LABEL = "average (steps chosen)"


def tuning_of(tasks: tuple[str, ...]) -> TuningMetrics:
    """Returns a choice of 20 and 5 steps, after the common 5 and 20."""
    tried = tuple(
        TriedPoint(
            values=dict(zip([f"steps.{task}" for task in tasks], steps, strict=True)),
            loss=loss,
            accuracy=0.5,
        )
        for steps, loss in (((5, 5), 1.5), ((20, 20), 1.25), ((20, 5), 0.75))
    )
    return TuningMetrics(chosen=tried[-1].values, tried=tried, num_images=40)


@pytest.fixture
def ledger(make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make) -> Ledger:
    """Returns three pairs, whose first task takes 20 steps and whose second takes 5."""
    merge = [{"method": "average"}, {"method": "average", "steps": "chosen"}]
    plan = make_plan(tasks=TASKS, finetune=FINETUNE, merge=merge)
    manifests = [expert_manifest(each) for each in plan.experts.values()]
    for spec in plan.merges.values():
        made = merge_manifest(spec)
        if spec.snapshots is not None:
            tuning = tuning_of(spec.snapshots.tasks).to_json()
            made = replace(made, metrics={**made.metrics, "tuning": tuning})
        manifests.append(made)
    return Ledger(plan, manifests=manifests)


def rows_of(ledger: Ledger) -> list[dict[str, Any]]:
    table = StudyResults.of(ledger.committed()).merges
    return [row for row in table.to_pylist() if row["method"] == LABEL]


def test_each_task_has_the_steps_of_its_chosen_expert(ledger: Ledger) -> None:
    """The means have no number of steps, and the choice stands in every row."""
    first = [row for row in rows_of(ledger) if row["group"] == "2x00"]
    one, other = (row for row in first if row["task"] not in ("macro", "union"))
    assert (one["steps"], other["steps"]) == (20, 5)
    assert [row["steps"] for row in first if row["task"] == "macro"] == [None]
    chosen = f"steps.{one['task']}=20, steps.{other['task']}=5"
    assert {(row["chosen"], row["num_tried"]) for row in first} == {(chosen, 3)}
    by_id = ledger.plan.experts
    assert by_id[other["expert_id"]].hyperparameters.steps == 5
    assert {row["data_use"] for row in first} == {"labelled validation"}


def test_the_report_shows_the_steps_beside_the_best_common_number(ledger: Ledger) -> None:
    """The loss at the choice, and the least one with equal steps."""
    page = page_of(ledger)
    section = page[page.index('id="tuning"') : page.index('id="facts"')]
    assert "emoji_objects 20, font_letters 5" in section
    assert section.index("0.750") < section.index("1.250")


def test_mlflow_has_the_rule_the_steps_and_the_curve(ledger: Ledger) -> None:
    """The parameter `steps` is the rule, as no number of steps is that of the merge."""
    spec = next(each for each in ledger.plan.merges.values() if each.snapshots is not None)
    run = mlflow_run_of(ledger.committed().merges[spec.id], ledger=ledger)
    assert run is not None
    assert spec.snapshots is not None
    assert (run.params["steps"], run.params["tried_steps"]) == ("chosen", "5 20")
    points = [(point.name, point.step, point.value) for point in run.metrics]
    first, second = (f"chosen_steps.{task}" for task in spec.snapshots.tasks)
    assert {(first, 0, 20.0), (second, 0, 5.0)} <= set(points)
    losses = [value for name, _, value in points if name == "validation_loss"]
    assert losses == [1.5, 1.25, 0.75]


def test_a_scaling_that_is_chosen_with_the_steps_stands_beside_them(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """Table, report and MLflow have the pair; the best common number is the best at any scaling."""
    entry = {"method": "task_arithmetic", "steps": "chosen", "scaling": {"tune": [0.3, 0.6]}}
    plan = make_plan(tasks=TASKS, finetune=FINETUNE, merge=[entry])
    manifests = [expert_manifest(each) for each in plan.experts.values()]
    for spec in plan.merges.values():
        assert spec.snapshots is not None
        alone = tuning_of(spec.snapshots.tasks)
        tried = tuple(
            replace(each, values={"scaling": scaling, **each.values}, loss=each.loss + scaling)
            for each in alone.tried
            for scaling in (0.3, 0.6)
        )
        tuning = replace(alone, chosen=tried[-2].values, tried=tried)
        made = merge_manifest(spec)
        manifests.append(replace(made, metrics={**made.metrics, "tuning": tuning.to_json()}))
    ledger = Ledger(plan, manifests=manifests)
    rows = StudyResults.of(ledger.committed()).merges.to_pylist()
    texts = {row["chosen"] for row in rows}
    assert "scaling=0.3, steps.emoji_objects=20, steps.font_letters=5" in texts
    section = page_of(ledger)
    section = section[section.index('id="tuning"') : section.index('id="facts"')]
    assert "emoji_objects 20, font_letters 5, scaling 0.3" in section
    assert section.index("1.050") < section.index("1.550")
    (first, *_) = plan.merges.values()
    run = mlflow_run_of(ledger.committed().merges[first.id], ledger=ledger)
    assert run is not None
    assert (run.params["tried_steps"], run.params["tuned_scaling"]) == ("5 20", "0.3 0.6")
    assert {point.value for point in run.metrics if point.name == "chosen_scaling"} == {0.3}
    (line,) = tuning_lines(plan)
    assert "each task's among 5, 20 with 2 values, on at most 20" in line


def test_plan_says_that_nothing_is_trained(ledger: Ledger) -> None:
    """One line with the numbers of steps, the merges and the images."""
    (line,) = tuning_lines(ledger.plan)
    assert line == (
        "steps of average (steps chosen): each task's among 5, 20, on at most 20 validation images "
        "per task, with about 6 further merges for each merge and no training"
    )

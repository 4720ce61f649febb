"""Tables, means, pairs and MLflow against a recomputation from the manifests, with pandas."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from eval.metrics import TaskSums
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.record.ledger import Ledger
from orchestrator.results.means import means_table
from orchestrator.results.study_results import StudyResults
from orchestrator.theory.answers import paired_table
from orchestrator.tracking.study_runs import mlflow_runs
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import TriedPoint, TuningMetrics

Make = Callable[..., Manifest]
TASKS = ["emoji_objects", "font_letters", "mnist_5k", "kana"]
SIZES = dict(zip(TASKS, (40, 100, 250, 64), strict=True))
KEY = ["axis", "value", "method", "group"]
NUMBERS = [
    "accuracy",
    "loss",
    "normalized_accuracy",
    "expert_accuracy",
    "expert_loss",
    "base_accuracy",
    "base_loss",
]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A study of random scores whose manifests are known."""

    committed: Committed
    results: StudyResults
    expected: pd.DataFrame
    """A row per cell and task, and per cell and mean, computed here."""


def drawn_sums(draw: random.Random, task: str) -> TaskSums:
    size = SIZES[task]
    return TaskSums(
        num_examples=size, num_correct=draw.randint(1, size), loss_sum=size * draw.uniform(0.1, 3)
    )


@pytest.fixture
def made(
    make_plan: Callable[..., Plan],
    expert_manifest: Make,
    merge_manifest: Make,
    base_manifest: Make,
) -> Made:
    """Returns a study with held-out tasks, multi-task models, tuned merges and one hole."""
    plan = make_plan(
        tasks={"names": TASKS, "max_validation": 20},
        finetune={"defaults": {"steps": 4, "lr": 0.1}, "axes": {"lr": [0.1, 0.2], "steps": [2, 4]}},
        merge=[{"method": "average"}, {"method": "ties", "scaling": {"tune": [0.5, 1.0]}}],
        evaluation={"held_out": True},
        baselines={"multi_task": {}},
    )
    draw = random.Random(7)
    of_expert = {
        each.id: (drawn_sums(draw, each.task), drawn_sums(draw, each.task))
        for each in plan.experts.values()
    }
    manifests = [
        expert_manifest(each, test=of_expert[each.id][0], base=of_expert[each.id][1])
        for each in plan.experts.values()
    ]
    of_model: dict[str, dict[str, TaskSums]] = {}
    hole = next(iter(plan.merges))
    for spec in plan.merges.values():
        sums = {each.task: drawn_sums(draw, each.task) for each in (*spec.experts, *spec.held_out)}
        if spec.id == hole:
            continue
        of_model[spec.id] = sums
        manifest = merge_manifest(spec, tasks=sums)
        if spec.tuning is not None:
            tried = tuple(
                TriedPoint(values={"scaling": each}, loss=draw.random(), accuracy=0.5)
                for each in (0.5, 1.0)
            )
            best = min(tried, key=lambda each: each.loss)
            tuning = TuningMetrics(chosen=best.values, tried=tried, num_images=40)
            manifest = replace(manifest, metrics={**manifest.metrics, "tuning": tuning.to_json()})
        manifests.append(manifest)
    for model in {cell.model.id: cell.model for cell in plan.multi_task}.values():
        (tasks,) = {cell.group.tasks for cell in plan.multi_task if cell.model.id == model.id}
        of_model[model.id] = {task: drawn_sums(draw, task) for task in tasks}
        manifest = base_manifest(model)
        scores = {task: each.to_json() for task, each in of_model[model.id].items()}
        manifests.append(replace(manifest, metrics={**manifest.metrics, "tasks": scores}))
    committed = Ledger(plan, manifests=manifests).committed()
    return Made(
        committed=committed,
        results=StudyResults.of(committed),
        expected=expected_rows(plan, of_model=of_model, of_expert=of_expert),
    )


def expected_rows(plan: Plan, *, of_model: Any, of_expert: Any) -> pd.DataFrame:  # noqa: ANN401
    cells = [
        (each, each.label, each.merge.id, each.merge.experts, each.merge.held_out)
        for each in plan.cells
    ]
    cells += [
        (each, "multi-task", each.model.id, each.experts, ())  # type: ignore[misc]
        for each in plan.multi_task
    ]
    found = []
    for cell, label, model_id, experts, held_out in cells:
        if model_id not in of_model:
            continue
        place = {
            "axis": cell.setting.axis,
            "value": cell.setting.value,
            "method": label,
            "group": cell.group.name,
        }
        rows = []
        for spec in (*experts, *held_out):
            merged, (own, base) = of_model[model_id][spec.task], of_expert[spec.id]
            rows.append(
                {
                    "task": spec.task,
                    "held_out": spec in held_out,
                    "n": merged.num_examples,
                    "correct": merged.num_correct,
                    "loss_sum": merged.loss_sum,
                    "own_correct": own.num_correct,
                    "own_loss_sum": own.loss_sum,
                    "base_correct": base.num_correct,
                    "base_loss_sum": base.loss_sum,
                }
            )
        frame = scored(pd.DataFrame(rows))
        inside = frame[~frame.held_out]
        macro = inside[NUMBERS].mean()
        sums = inside.drop(columns=["task", *NUMBERS]).sum()
        union = scored(pd.DataFrame([sums])).iloc[0]
        for name, mean in (("macro", macro), ("union", union)):
            found.append({**place, "task": name, "held_out": False, **mean[NUMBERS]})
        found += [{**place, **row} for row in frame.to_dict("records")]
    return pd.DataFrame(found)


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        accuracy=frame.correct / frame.n,
        loss=frame.loss_sum / frame.n,
        normalized_accuracy=frame.correct / frame.own_correct,
        expert_accuracy=frame.own_correct / frame.n,
        expert_loss=frame.own_loss_sum / frame.n,
        base_accuracy=frame.base_correct / frame.n,
        base_loss=frame.base_loss_sum / frame.n,
    )


def test_rows_are_those_of_the_manifests(made: Made) -> None:
    """Held-out tasks, multi-task models and tuned merges included; the hole has no row."""
    got = made.results.rows.to_pandas()
    key = [*KEY, "task"]
    both = made.expected.merge(got, on=key, suffixes=("", "_got"), how="outer", indicator=True)
    assert set(both["_merge"]) == {"both"}
    assert len(both) == len(got) == len(made.expected)
    assert (both.held_out == both.held_out_got).all()
    for name in NUMBERS:
        np.testing.assert_allclose(both[name].astype(float), both[f"{name}_got"], rtol=1e-12)


def test_means_are_those_over_the_groups(made: Made) -> None:
    """Mean and sample deviation, and the gain as a paired difference, in the means of all views."""
    rows = made.expected.assign(gain=made.expected.accuracy - made.expected.base_accuracy)
    for means in (made.results.all_means, made.results.compared.means):
        for row in means_table(means).to_pylist():
            at = rows[
                (rows.axis == row["axis"])
                & (rows.value == row["value"])
                & (rows.method == row["method"])
                & (rows.task == row["mean"])
            ]
            assert row["num_groups"] == len(at)
            for name in (*NUMBERS, "gain"):
                numbers = at[name].astype(float)
                assert row[f"{name}_mean"] == pytest.approx(numbers.mean(), rel=1e-12)
                assert row[f"{name}_std"] == pytest.approx(numbers.std(), rel=1e-9)


def test_pairs_are_over_the_groups_that_all_methods_have(made: Made) -> None:
    """Differences, intervals over groups, and counts, of methods at a setting."""
    rows = made.expected
    found = [
        row for row in paired_table(made.results.own_rows).to_pylist() if row["kind"] == "methods"
    ]
    assert {len(made.committed.plan.groups), len(made.committed.plan.groups) - 1} == {
        row["num_groups"] for row in found
    }
    for row in found:
        axis, _, value = row["family"].partition("=")
        at = rows[(rows.axis == axis) & (rows.value == value) & (rows.task == row["mean"])]
        table = at.pivot_table(index="group", columns="method", values=row["quantity"]).dropna()
        differences = table[row["best"]] - table[row["other"]]
        assert row["num_groups"] == len(differences)
        assert row["difference"] == pytest.approx(differences.mean(), rel=1e-9)
        low, high = stats.t.interval(
            0.95, len(differences) - 1, differences.mean(), stats.sem(differences)
        )
        assert (row["groups_low"], row["groups_high"]) == pytest.approx((low, high), rel=1e-9)
        better = differences < 0 if row["quantity"] == "loss" else differences > 0
        assert row["num_better"] == better.sum()


def test_mlflow_has_the_numbers_of_the_tables(made: Made) -> None:
    """Of merges, multi-task models and settings."""
    rows = made.expected
    seen = dict.fromkeys(("merge", "multi_task", "setting"), 0)
    faults: list[str] = []
    for run in mlflow_runs(
        made.committed, results=made.results, leave_out=lambda key, _: faults.append(key)
    ):
        if run.kind not in seen:
            continue
        seen[run.kind] += 1
        metrics = {point.name: point.value for point in run.metrics}
        at = rows[(rows.axis == run.params["axis"]) & (rows.value == run.params["value"])]
        label = run.tags.get("method", run.params["method"])
        if run.kind == "setting":
            for mean in ("macro", "union"):
                of = at[(at.method == label) & (at.task == mean)]
                assert metrics[f"{mean}_accuracy_mean"] == pytest.approx(of.accuracy.mean())
                assert metrics[f"{mean}_loss_mean"] == pytest.approx(of.loss.mean())
                gain = of.accuracy - of.base_accuracy
                assert metrics[f"{mean}_gain_mean"] == pytest.approx(gain.mean())
                assert metrics[f"{mean}_accuracy_stderr"] == pytest.approx(of.accuracy.sem())
                assert metrics["num_groups"] == len(of)
            continue
        of = at[(at.method == label) & (at.group == run.params["group"])]
        for row in of.to_dict("records"):
            name = row["task"]
            if name in ("macro", "union"):
                assert metrics[f"{name}_accuracy"] == pytest.approx(row["accuracy"])
                assert metrics[f"{name}_gain"] == pytest.approx(
                    row["accuracy"] - row["base_accuracy"]
                )
                assert metrics[f"{name}_normalized_accuracy"] == pytest.approx(
                    row["normalized_accuracy"]
                )
            else:
                assert metrics[f"accuracy/{name}"] == pytest.approx(row["accuracy"])
    assert all(seen.values())
    assert not faults

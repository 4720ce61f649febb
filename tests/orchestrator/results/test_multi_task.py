"""Multi-task models beside the merges: planned, trained, and shown in tables and figures."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from click.testing import CliRunner
from in_process import small_study
from study_problems import problems_of

from orchestrator.cli.command_line import cli
from orchestrator.costs.budget import BudgetKeeper, budget_lines
from orchestrator.costs.sizes import sizes_by_base
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.report.charts import Plot
from orchestrator.report.figures import figures
from orchestrator.report.quantities import ACCURACY, by_axis
from orchestrator.report.style import method_styles
from orchestrator.results.schema import MEANS
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import report_page, write_outputs
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study
from orchestrator.tracking.study_runs import mlflow_runs
from workers.specs.bases import BaseSpec

Make = Callable[..., Plan]
AXES = {"axes": {"lr": [0.01, 0.02], "steps": [2, 4]}, "defaults": {"steps": 4, "batch_size": 8}}


def models_of(plan: Plan) -> list[BaseSpec]:
    """Returns the distinct multi-task models."""
    return list({cell.model.id: cell.model for cell in plan.multi_task}.values())


def test_every_group_has_a_model_at_every_setting(make_plan: Make) -> None:
    """Its hyperparameters are the experts'; step counts are snapshots of one training."""
    finetune = {"defaults": {"steps": 4, "lr": 0.1}, "axes": {"lr": [0.1, 0.2], "steps": [2, 4]}}
    without = make_plan(finetune=finetune)
    plan = make_plan(finetune=finetune, baselines={"multi_task": {"steps": 3}})
    places = {(cell.setting.name, cell.group.name) for cell in plan.cells}
    assert {(cell.setting.name, cell.group.name) for cell in plan.multi_task} == places
    assert {model.hyperparameters.steps for model in models_of(plan)} == {6, 12}
    assert len(models_of(plan)) == 3 * len(plan.groups)
    assert len(plan.bases.multi_task) == 2 * len(plan.groups)
    for cell in plan.multi_task:
        assert cell.model.pretrain is not None
        assert cell.model.pretrain.tasks == tuple(sorted(cell.group.tasks))
        used, (lr,) = cell.model.hyperparameters, {e.hyperparameters.lr for e in cell.experts}
        assert (used.lr, used.steps) == (lr, 3 * cell.experts[0].hyperparameters.steps)
    assert list(plan.merges) == list(without.merges)
    assert not without.multi_task
    assert plan.trainings[-1] in plan.bases.multi_task


VARIED = {
    "one-factor": ({"axes": {"lr": [0.01, 0.02], "steps": [4, 8]}}, {}, ["lr=0.01", "steps=8"]),
    "one axis has it": ({"axes": {"lr": [0.02], "steps": [4, 8]}}, {}, ["steps=8"]),
    "none has it": ({"axes": {"lr": [0.02], "steps": [4]}}, {}, "one of lr: 0.01, steps: 8"),
    "no axis": ({}, {}, ["default"]),
    "grid": (
        {"design": "grid", "axes": {"lr": [0.01, 0.02], "steps": [4, 8]}},
        {},
        ["lr=0.01, steps=8"],
    ),
    "grid without": ({"design": "grid", "axes": {"lr": [0.02], "steps": [8]}}, {}, "lr: 0.01"),
    "listed": (
        {"design": "listed", "points": [{"lr": 0.02}, {"steps": 8, "lr": 0.01}]},
        {},
        ["lr=0.01, steps=8"],
    ),
    "listed without": ({"design": "listed", "points": [{"lr": 0.02}]}, {}, "finetune.points"),
    "random": ({"design": "random", "axes": {"lr": [0.01]}}, {}, "draws its settings"),
    "sizes": ({}, {"sizes": [2, 3]}, ["num_tasks=2"]),
    "sizes without": ({}, {"sizes": [3]}, "groups.size, which is 2"),
    "pools": ({"axes": {"lr": [0.02]}}, {"pool": [2, 3]}, ["pool_irrelevant=2"]),
}


@pytest.mark.parametrize("name", VARIED)
def test_models_at_the_defaults_alone(
    study_fields: Callable[..., dict[str, Any]], make_plan: Make, name: str
) -> None:
    """Every setting at which all axes have their default values; it is an error if none has."""
    finetune, groups, expected = VARIED[name]
    fields: dict[str, Any] = {
        "finetune": {"defaults": {"steps": 8, "lr": 0.01}, **finetune},
        "groups": {"size": 2, **groups},
        "baselines": {"multi_task": {"settings": "defaults"}},
    }
    if isinstance(expected, str):
        (told,) = problems_of(study_fields(**fields)).items()
        assert told[0] == "baselines.multi_task.settings"
        assert expected in told[1]
        return
    plan = make_plan(**fields)
    without = make_plan(**{**fields, "baselines": {}})
    assert list(dict.fromkeys(cell.setting.name for cell in plan.multi_task)) == expected
    assert len(models_of(plan)) == 3  # one for each pair of the three tasks
    assert {*plan.bases.by_id} - plan.bases.multi_task_ids == {*without.bases.by_id}
    assert [*plan.merges, *plan.experts] == [*without.merges, *without.experts]


def test_missing_models_are_holes(make_plan: Make) -> None:
    """They are named by their tasks."""
    plan = make_plan(baselines={"multi_task": {}})
    holes = [hole for hole in Ledger(plan, manifests=()).state().holes() if hole.kind == "base"]
    assert len(holes) == len(models_of(plan))
    assert all(" together" in hole.what for hole in holes)


def test_models_have_a_budget_and_a_tally(make_plan: Make) -> None:
    """They get room after all merges, and are named apart from pretraining."""
    plan = make_plan(baselines={"multi_task": {}}, budget={"cpu_hours": 1e-6})
    ledger = Ledger(plan, manifests=())
    keeper = BudgetKeeper(ledger, models=sizes_by_base(plan))
    told = " ".join(budget_lines(plan, keeper=keeper))
    assert f"{len(models_of(plan))} multi-task models, " in told
    assert "pretraining" not in told
    tallies = {each.name: each.num_planned for each in ledger.stages()}
    assert tallies["multi-task"] == len(models_of(plan))
    assert "bases" not in tallies


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"finetune": {"head": "frozen"}}, "its heads are trained, and the experts' are not"),
        ({"backbone": {"pretrain": {"tasks": ["mnist_5k"], "steps": 3}}}, "backbone.pretrain"),
        ({"baselines": {"multi_task": {"steps": 0}}}, "baselines.multi_task.steps"),
        ({"baselines": {"multi_task": {"steps": "all"}}}, "baselines.multi_task.steps"),
        ({"merge": [{"method": "ties", "label": "multi-task"}]}, "give the entry another `label`"),
    ],
    ids=str,
)
def test_studies_that_cannot_have_them(
    study_fields: Callable[..., dict[str, Any]], changes: dict[str, Any], told: str
) -> None:
    """The fault is named with its field."""
    fields = study_fields(**{"baselines": {"multi_task": {}}, **changes})
    with pytest.raises(StudyError) as caught:
        parse_study(yaml.safe_dump(fields), source="it")
    assert told in str(caught.value)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedStudy]:
    """Runs a study once for the tests of its rows and models."""
    with small_study(
        tmp_path_factory.mktemp("multi_task"),
        tasks={
            "names": ["emoji_objects", "mnist_5k", "font_letters"],
            "max_train": 32,
            "max_test": 24,
        },
        finetune={**AXES, "average_weights": "ema"},
        merge=[{"method": "average"}, {"method": "ties"}],
        baselines={"multi_task": {"steps": 2}},
    ) as (study, _):
        yield study


def test_rows_stand_beside_the_merges(opened: OpenedStudy) -> None:
    """In results.parquet, means, pairs, figures and the report; laws are about merges alone."""
    assert opened.is_finished()
    results = StudyResults.of(opened.ledger.committed())
    assert results.multi_task is not None
    assert pc.unique(results.merges["method"]).to_pylist() == ["average", "ties"]
    assert results.multi_task.num_rows * 2 == results.merges.num_rows
    rows = results.multi_task.to_pylist()
    assert {row["data_use"] for row in rows} == {"joint training"}
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    assert all(row["expert_accuracy"] >= 0 and row["base_loss"] > 0 for row in rows)
    write_outputs(opened, results=results)
    stored = StudyResults.stored(opened.folder)
    assert stored is not None
    assert stored.rows.equals(results.rows)
    assert stored.merges.equals(results.merges)
    assert "multi-task" in report_page(opened, results=results)
    assert {mean.method for mean in results.compared.means} == {"average", "ties", "multi-task"}
    assert not figures(results.compared).faults
    words = ["results", "small", "--store", opened.store_url]
    assert "multi-task" in CliRunner().invoke(cli, words).output
    pairs = CliRunner().invoke(cli, [*words, "--pairs"])
    assert "multi-task" in pairs.output, pairs.output
    verified = CliRunner().invoke(cli, ["verify", "small", "--store", opened.store_url])
    assert verified.exit_code == 0, verified.output


def test_a_model_at_one_value_is_one_marker(opened: OpenedStudy) -> None:
    """Figures draw no line to values without it, and the report names the value."""
    results = StudyResults.of(opened.ledger.committed())
    assert results.multi_task is not None
    at_defaults = pc.is_in(results.multi_task["value"], value_set=pa.array(["0.01", "4"]))
    part = replace(results, multi_task=results.multi_task.filter(at_defaults))
    means = part.compared.means
    assert [mean.value for mean in means if mean.method == "multi-task"] == ["0.01", "4"]
    (lr, _) = by_axis(means).values()
    plot = Plot(settings=lr, quantity=ACCURACY, mean="macro", styles=method_styles(["multi-task"]))
    assert [value for value, *_ in plot.of_method("multi-task")] == ["0.01"]
    page = report_page(opened, results=part)
    assert "multi-task is at 0.01 only." in page
    assert "multi-task is at 4 only." in page
    assert "could not be made" not in page
    assert "is at" not in report_page(opened, results=results)


def test_every_model_has_an_mlflow_run(opened: OpenedStudy) -> None:
    """It has the scores of the model's rows, its hyperparameters and its loss curve."""
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    assert results.multi_task is not None
    left_out: dict[str, Exception] = {}
    every = mlflow_runs(committed, results=results, leave_out=left_out.__setitem__)
    runs = {run.tags["model_id"]: run for run in every if run.kind == "multi_task"}
    assert left_out == {}
    models = {model.id: model for model in models_of(opened.plan)}
    assert runs.keys() == models.keys()
    for row in results.multi_task.to_pylist():
        run = runs[row["merge_id"]]
        scores = {point.name: point.value for point in run.metrics}
        name = row["task"]
        key = f"{name}_accuracy" if name in MEANS else f"accuracy/{name}"
        assert scores[key] == row["accuracy"]
    for model_id, run in runs.items():
        pretrain = models[model_id].pretrain
        assert pretrain is not None
        assert run.params["steps"] == str(pretrain.hyperparameters.steps)
        steps = [point.step for point in run.metrics if point.name == "train_loss"]
        assert steps[-1] == pretrain.hyperparameters.steps

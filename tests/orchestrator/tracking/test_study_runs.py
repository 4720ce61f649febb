import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pyarrow.compute as pc
import pytest

from eval.metrics import TaskSums
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.schema import MEANS
from orchestrator.results.study_results import StudyResults
from orchestrator.tracking.mlflow_run import MAX_ARTIFACT_BYTES, MAX_METRIC_KEYS, MlflowRun
from orchestrator.tracking.protocol import NOTE_TAG
from orchestrator.tracking.run_fields import merge_scores, run_key
from orchestrator.tracking.study_runs import axis_views, mlflow_run_of, mlflow_runs, report_run
from workers.artifacts.manifests import Manifest

Make = Callable[..., Manifest]
TWO_AXES = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"lr": [0.01, 0.1], "steps": [10, 20]},
}
METHODS = [{"method": "average"}, {"method": "ties", "density": 0.3}]


@pytest.fixture
def ledger(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> Ledger:
    """Returns the ledger of a finished study with two axes and two methods."""
    plan = make_plan(finetune=TWO_AXES, merge=METHODS)
    return Ledger(plan, manifests=all_manifests(plan))


def runs_of(ledger: Ledger) -> list[MlflowRun]:
    """Returns the MLflow runs of a study, none of which is left out."""
    left_out: dict[str, Exception] = {}
    committed = ledger.committed()
    results = StudyResults.of(committed)
    runs = list(mlflow_runs(committed, results=results, leave_out=left_out.__setitem__))
    assert left_out == {}
    return runs


def by_kind(ledger: Ledger) -> dict[str, list[MlflowRun]]:
    runs: dict[str, list[MlflowRun]] = {}
    for run in runs_of(ledger):
        runs.setdefault(run.kind, []).append(run)
    return runs


def metrics(run: MlflowRun) -> dict[str, float]:
    """Returns the last value of each metric."""
    return {point.name: point.value for point in run.metrics}


def test_every_expert_merge_setting_and_curve_has_one_run(ledger: Ledger) -> None:
    """9 experts, 3 distinct points x 3 groups x 2 methods, 4 settings x 2, 2 axes x 2."""
    counts = {kind: len(runs) for kind, runs in by_kind(ledger).items()}
    assert counts == {"expert": 9, "setting": 8, "curve": 4, "merge": 18}
    keys = [run.key for run in runs_of(ledger)]
    assert len(set(keys)) == len(keys)


def test_merges_are_children_of_settings_that_exist(ledger: Ledger) -> None:
    """The parent is the setting and method of the first cell that shows the merge."""
    runs = by_kind(ledger)
    settings = {run.key: run for run in runs["setting"]}
    for run in runs["merge"]:
        assert run.parent_key is not None
        parent = settings[run.parent_key]
        assert {parent.tags[tag] for tag in ("setting", "method")} == {
            run.tags["setting"],
            run.tags["method"],
        }
    assert {run.parent_key for kind in ("expert", "setting", "curve") for run in runs[kind]} == {
        None
    }


def test_replay_gives_equal_runs(ledger: Ledger) -> None:
    """Times come from the manifests, so a second publication changes nothing."""
    committed = ledger.committed()
    manifests = [*committed.merges.values(), *committed.experts.values()]
    again = Ledger(ledger.plan, manifests=manifests)
    assert {run.key: run.digest for run in runs_of(again)} == {
        run.key: run.digest for run in runs_of(ledger)
    }


def test_run_of_a_manifest_equals_the_run_of_a_replay(ledger: Ledger) -> None:
    """Publishing each artifact as it is committed equals publishing all at the end."""
    committed = ledger.committed()
    replayed = {run.key: run.digest for run in runs_of(ledger)}
    for manifest in (*committed.experts.values(), *committed.merges.values()):
        run = mlflow_run_of(manifest, ledger=ledger)
        assert run is not None
        assert replayed[run.key] == run.digest


def test_expert_has_its_hyperparameters_curve_and_scores(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """One MLflow run in full; it took 5 s and ends when the manifest was written."""
    plan = make_plan(finetune=TWO_AXES)
    expert = plan.setting_experts[0]["mnist_5k"]
    manifest = expert_manifest(expert, at_s=1000.5, seconds=5.0)
    run = mlflow_run_of(manifest, ledger=Ledger(plan, manifests=[manifest]))
    assert run is not None
    assert (run.key, run.status) == (f"expert/{expert.id}", "FINISHED")
    assert (run.start_ms, run.end_ms) == (995_500, 1_000_500)
    assert run.params == {
        "backbone": "test_resnet",
        "weights": "none",
        "pretrain_steps": "0",
        "task": "mnist_5k",
        "steps": "10",
        "batch_size": "8",
        "lr": "0.01",
        "data_ratio": "1.0",
        "schedule": "constant",
        "seed": "0",
        "freeze_batch_norm": "True",
        "optimizer": "sgd",
        "optimizer_momentum": "0.9",
        "optimizer_nesterov": "False",
        "weight_decay": "0.0",
        "sam_rho": "0.0",
        "warmup_steps": "0",
        "head": "trained",
        "average_weights": "none",
        "augment": "none",
        "linearised": "False",
    }
    assert run.tags == {
        "study": "small",
        "kind": "expert",
        "code_version": "0.1.0",
        "task": "mnist_5k",
        "expert_id": expert.id,
        "settings": "lr=0.01; steps=10",
        "outcome": "done",
        "mlflow.source.name": "mergesweep",
        "mlflow.source.type": "LOCAL",
        NOTE_TAG: "Expert of mnist_5k at lr=0.01. Accuracy 80.0 % on its own test images; the base "
        "with the same head 40.0 %.",
    }
    curve = [(p.step, p.value, p.timestamp_ms) for p in run.metrics if p.name == "train_loss"]
    assert curve == [(5, 2.0, 998_000), (10, 1.0, 1_000_500)]
    assert metrics(run) == {
        "train_loss": 1.0,
        "test_accuracy": 0.8,
        "test_loss": 0.5,
        "base_accuracy": 0.4,
        "base_loss": 1.5,
    }


def test_diverged_expert_without_weights_has_a_run_without_scores(
    make_plan: Callable[..., Plan], expert_manifest: Make
) -> None:
    """It has its outcome and its loss curve, and no score is made up."""
    plan = make_plan()
    expert = next(iter(plan.experts.values()))
    manifest = expert_manifest(expert, test=None, outcome="diverged", train_curve=())
    run = mlflow_run_of(manifest, ledger=Ledger(plan, manifests=[manifest]))
    assert run is not None
    assert run.tags["outcome"] == "diverged"
    assert metrics(run) == {}


def test_merge_has_both_means_and_its_tasks(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """0.5 of 100 images and 0.9 of 300: 0.7 over tasks, 0.8 over images; loss 0.75 and 0.625."""
    plan = make_plan(tasks=["font_letters", "mnist_5k"], merge=[METHODS[1]])
    (spec,) = plan.merges.values()
    sums = {
        "font_letters": TaskSums(num_examples=100, num_correct=50, loss_sum=100.0),
        "mnist_5k": TaskSums(num_examples=300, num_correct=270, loss_sum=150.0),
    }
    manifest = merge_manifest(spec, tasks=sums, at_s=2000.0)
    experts = [expert_manifest(expert) for expert in spec.experts]
    run = mlflow_run_of(manifest, ledger=Ledger(plan, manifests=[*experts, manifest]))
    assert run is not None
    assert run.key == f"merge/{spec.id}"
    assert run.parent_key == "setting/default/ties"
    assert (run.start_ms, run.end_ms) == (1_998_000, 2_000_000)
    assert metrics(run) == pytest.approx(
        {
            "macro_accuracy": 0.7,
            "macro_loss": 0.75,
            "macro_normalized_accuracy": (0.5 / 0.8 + 0.9 / 0.8) / 2,
            "macro_base_accuracy": 0.4,
            "macro_gain": 0.3,
            "union_accuracy": 0.8,
            "union_loss": 0.625,
            "union_normalized_accuracy": 1.0,
            "union_base_accuracy": 0.4,
            "union_gain": 0.4,
            "accuracy/font_letters": 0.5,
            "accuracy/mnist_5k": 0.9,
        }
    )
    assert {**run.params, **run.tags}.items() >= {
        "method": "ties",
        "method_density": "0.3",
        "method_scaling": "0.3",
        "batch_norm": "average",
        "data_use": "none",
        "per_task_modules": "False",
        "num_tasks": "2",
        "tasks": "font_letters mnist_5k",
        "group": "2x00",
        "lr": "0.01",
        "axis": "default",
        "kind": "merge",
        "merge_id": spec.id,
        "study": "small",
    }.items()


def test_setting_has_mean_and_spread_over_its_groups(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """Accuracies 0.2, 0.5 and 0.8: mean 0.5, deviation 0.3, error 0.3/sqrt(3)."""
    plan = make_plan(finetune={**TWO_AXES, "axes": {"lr": [0.1]}})
    experts = [expert_manifest(each) for each in plan.experts.values()]
    merges = []
    for place, (correct, spec) in enumerate(zip((20, 50, 80), plan.merges.values(), strict=True)):
        sums = TaskSums(num_examples=100, num_correct=correct, loss_sum=100.0)
        tasks = dict.fromkeys((expert.task for expert in spec.experts), sums)
        merges.append(merge_manifest(spec, tasks=tasks, at_s=2000.0 + place))
    (run,) = by_kind(Ledger(plan, manifests=[*experts, *merges]))["setting"]
    assert run.key == "setting/lr=0.1/average"
    assert (run.start_ms, run.end_ms) == (2_000_000, 2_002_000)
    found = metrics(run)
    for mean in ("macro", "union"):
        assert found[f"{mean}_accuracy_mean"] == pytest.approx(0.5)
        assert found[f"{mean}_accuracy_std"] == pytest.approx(0.3)
        assert found[f"{mean}_accuracy_stderr"] == pytest.approx(0.3 / math.sqrt(3))
        assert found[f"{mean}_loss_mean"] == pytest.approx(1.0)
        assert found[f"{mean}_gain_mean"] == pytest.approx(0.1)
        assert found[f"{mean}_gain_std"] == pytest.approx(0.3)
        assert found[f"{mean}_base_accuracy_mean"] == pytest.approx(0.4)
        assert found[f"{mean}_expert_accuracy_mean"] == pytest.approx(0.8)
        assert found[f"{mean}_normalized_accuracy_mean"] == pytest.approx(0.5 / 0.8)
    assert (found["axis_value"], found["num_groups"]) == (0.1, 3)
    assert (run.tags["axis"], run.tags["value"], run.tags["setting"]) == ("lr", "0.1", "lr=0.1")


def test_a_loss_that_is_not_finite_in_a_group_leaves_no_point_of_a_curve(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """The mean over the other groups is another quantity; the setting says how many they are."""
    plan = make_plan(finetune={**TWO_AXES, "axes": {"lr": [0.1]}})
    experts = [expert_manifest(each) for each in plan.experts.values()]
    merges = []
    for loss, spec in zip((math.nan, 100.0, 200.0), plan.merges.values(), strict=True):
        sums = TaskSums(num_examples=100, num_correct=50, loss_sum=loss)
        merges.append(
            merge_manifest(spec, tasks=dict.fromkeys((each.task for each in spec.experts), sums))
        )
    runs = by_kind(Ledger(plan, manifests=[*experts, *merges]))
    (setting,), (curve,) = map(metrics, runs["setting"]), map(metrics, runs["curve"])
    assert (setting["macro_loss_mean"], setting["macro_loss_num_groups"]) == (1.5, 2)
    assert setting["num_groups"] == 3
    assert "macro_accuracy_num_groups" not in setting
    assert math.isnan(curve["macro_loss_mean"])
    assert curve["macro_accuracy_mean"] == 0.5


def test_setting_of_a_grid_has_no_place_on_an_axis(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """The value `lr=0.01, steps=10` is not a number."""
    plan = make_plan(finetune={**TWO_AXES, "design": "grid"})
    runs = by_kind(Ledger(plan, manifests=all_manifests(plan)))["setting"]
    assert all("axis_value" not in metrics(run) for run in runs)
    assert runs[0].params["lr"] == "0.01"


def test_curve_has_only_values_with_all_groups(ledger: Ledger) -> None:
    """MLflow cannot delete a point, so unfinished settings are left out."""
    merges = list(ledger.committed().merges.values())
    half_done = [m for m in merges if m.id != ledger.plan.cells[0].merge.id]
    ended = Ledger(ledger.plan, manifests=[*ledger.committed().experts.values(), *half_done])
    curves = {run.key: run for run in by_kind(ended)["curve"]}
    values = {
        key: [p.step for p in run.metrics if p.name == "macro_accuracy_mean"]
        for key, run in curves.items()
    }
    assert values == {
        "curve/lr/average": [1],
        "curve/lr/ties": [0, 1],
        "curve/steps/average": [1],
        "curve/steps/ties": [0, 1],
    }


def test_study_without_merges_has_runs_of_experts_only(ledger: Ledger) -> None:
    """No setting is made up."""
    begun = Ledger(ledger.plan, manifests=ledger.committed().experts.values())
    assert {kind: len(runs) for kind, runs in by_kind(begun).items()} == {"expert": 9}


def test_no_run_has_more_metrics_than_a_page_can_show(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """The study has all eight tasks at once, held-out tasks too."""
    plan = make_plan(
        tasks="embedded8", groups={"count": 1, "size": 7}, evaluation={"held_out": True}
    )
    for run in runs_of(Ledger(plan, manifests=all_manifests(plan))):
        assert len(metrics(run)) <= MAX_METRIC_KEYS


def test_each_axis_has_a_view_with_its_values(ledger: Ledger) -> None:
    """The saved charts are in the order of the study."""
    views = [(view.axis, tuple(view.values)) for view in axis_views(ledger.plan)]
    assert views == [("lr", ("0.01", "0.1")), ("steps", ("10", "20"))]


def test_report_spans_the_study_and_carries_its_files(ledger: Ledger) -> None:
    """It begins with the first commit and ends with the last."""
    run = report_run(ledger.committed(), report=b"<html>", drawn={}, faults={})
    assert (run.kind, run.start_ms, run.end_ms) == ("report", 1_000_000, 2_000_000)
    assert run.artifacts == {"report.html": b"<html>"}


def test_code_version_is_split_into_release_and_commit(ledger: Ledger) -> None:
    """MLflow can filter by the commit; a release without a commit has no such tag."""
    manifest = next(iter(ledger.committed().experts.values()))
    built = Manifest(**{**vars(manifest), "code_version": "0.1.0+abc123"})
    tags = [run.tags for run in (mlflow_run_of(m, ledger=ledger) for m in (manifest, built)) if run]
    assert [each["code_version"] for each in tags] == ["0.1.0", "0.1.0"]
    assert [each.get("git_commit") for each in tags] == [None, "abc123"]


def test_report_that_is_too_large_for_mlflow_leaves_out_the_largest_files(ledger: Ledger) -> None:
    """The report comes first, the description names what is missing, and nothing fails."""
    drawn = {"a.png": bytes(10), "b.png": bytes(MAX_ARTIFACT_BYTES - 20)}
    run = report_run(
        ledger.committed(), report=bytes(11), drawn=drawn, faults={"c.png": "ValueError: no font"}
    )
    assert set(run.artifacts) == {"report.html", "figures/a.png"}
    note = "Left out: c.png: ValueError: no font; figures/b.png: too large."
    assert run.tags[NOTE_TAG] == note
    huge = report_run(
        ledger.committed(), report=bytes(MAX_ARTIFACT_BYTES + 1), drawn=drawn, faults={}
    )
    assert set(huge.artifacts) == {"figures/a.png", "figures/b.png"}


def test_run_that_mlflow_would_refuse_is_left_out_alone(ledger: Ledger) -> None:
    """All others are made; the error is handed on with the key."""
    committed = ledger.committed()
    results = StudyResults.of(committed)
    (bad, *_) = committed.merges
    is_macro_of_bad = pc.and_(
        pc.equal(results.merges["merge_id"], bad), pc.equal(results.merges["task"], "macro")
    )
    broken = replace(results, merges=results.merges.filter(pc.invert(is_macro_of_bad)))
    left_out: dict[str, Exception] = {}
    runs = list(mlflow_runs(committed, results=broken, leave_out=left_out.__setitem__))
    assert {key: type(error) for key, error in left_out.items()} == {f"merge/{bad}": KeyError}
    assert len(runs) == len(runs_of(ledger)) - 1


def test_every_run_has_source_and_description(ledger: Ledger) -> None:
    """MLflow's columns for them are filled; the words hold accuracy and gain."""
    runs = by_kind(ledger)
    for run in itertools.chain(*runs.values()):
        assert run.tags["mlflow.source.name"] == "mergesweep"
        assert run.tags["mlflow.source.type"] == "LOCAL"
        assert run.tags[NOTE_TAG]
    gained = "Macro accuracy 80.0 %, gain +40.0 points over the base with the same heads."
    assert runs["merge"][0].tags[NOTE_TAG].endswith(gained)
    assert runs["setting"][0].tags[NOTE_TAG].endswith(gained)
    assert "Accuracy 80.0 % on its own test images" in runs["expert"][0].tags[NOTE_TAG]


def test_names_from_outside_fit_keys_and_metrics() -> None:
    """MLflow's search has no escape for quotation marks, and metrics have few characters."""
    assert run_key("setting", "weights=/data/john's.pt", "ties") == (
        "setting/weights=/data/john%27s.pt/ties"
    )
    row = dict.fromkeys(("accuracy", "loss", "normalized_accuracy", "base_accuracy"), 0.5)
    rows = [{"task": task, **row} for task in (*MEANS, "caf\u00e9 (new)", "x" * 300)]
    names = set(merge_scores(rows))
    assert "accuracy/caf\u00e9 _new_" in names
    assert max(map(len, names)) <= 250

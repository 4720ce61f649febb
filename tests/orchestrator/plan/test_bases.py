from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.verbs.plan import axis_lines, base_lines
from orchestrator.plan.plan import Plan
from orchestrator.record.holes import Outcome
from orchestrator.record.ledger import Ledger
from orchestrator.results.means import setting_means
from orchestrator.results.rows import experts_table, results_table
from orchestrator.tracking.study_runs import mlflow_run_of
from workers.artifacts.manifests import Manifest
from workers.specs.bases import BaseSpec
from workers.specs.training import Pretraining

Make = Callable[..., Manifest]
DEFAULTS = {"steps": 10, "lr": 0.01, "batch_size": 8}
PRETRAIN = {"tasks": ["mnist_m", "mnist_5k"], "steps": 20, "batch_size": 16, "lr": 0.002}
BACKBONE: dict[str, Any] = {"model": "test_resnet", "weights": "none", "image_size": 32}


def backbone(**changes: object) -> dict[str, Any]:
    return {**BACKBONE, **changes}


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    """Returns a plan over base quality, with a base of another size."""
    axes = {"pretrain_steps": [0, 20, 50], "model": ["test_resnet", "test_vit"]}
    return make_plan(backbone=backbone(pretrain=PRETRAIN, axes=axes))


def named(plan: Plan) -> dict[str, BaseSpec]:
    return {setting.name: plan.bases.by_point[setting.base] for setting in plan.settings}


def test_study_without_axes_has_one_base_and_no_pretraining(make_plan: Callable[..., Plan]) -> None:
    """A study that does not vary the base has one base and no pretraining."""
    plan = make_plan()
    (job,) = plan.bases.jobs
    assert plan.bases.trainings == ()
    assert list(plan.bases.by_id) == [job.spec.id]
    assert job.spec == BaseSpec(model="test_resnet", weights="none", seed=0)
    assert {expert.base_id for expert in plan.experts.values()} == {job.spec.id}


def test_every_value_of_an_axis_is_a_setting_with_its_own_base(plan: Plan) -> None:
    """No steps means the initial base. The default is on both axes and is made once."""
    bases = named(plan)
    assert list(bases) == [
        "model=test_resnet",
        "model=test_vit",
        "pretrain_steps=0",
        "pretrain_steps=20",
        "pretrain_steps=50",
    ]
    assert bases["pretrain_steps=0"].pretrain is None
    assert bases["pretrain_steps=20"] == bases["model=test_resnet"]
    assert bases["model=test_vit"].model == "test_vit"
    steps = [base.pretrain.hyperparameters.steps if base.pretrain else 0 for base in bases.values()]
    assert steps == [20, 20, 0, 20, 50]
    assert len(plan.bases.by_id) == 5  # two initial ones
    assert len(plan.experts) == 4 * 3


def test_step_counts_of_pretraining_share_a_run(plan: Plan) -> None:
    """Each model has one pretraining; values of the steps axis are snapshots of the first."""
    assert [(run.longest.model, run.snapshots) for run in plan.bases.trainings] == [
        ("test_resnet", (20, 50)),
        ("test_vit", (20,)),
    ]
    assert plan.bases.num_steps == 70


def test_step_counts_share_nothing_under_a_cosine(make_plan: Callable[..., Plan]) -> None:
    """Under a cosine every step depends on the total number of steps, as in trials."""
    pretrain = {**PRETRAIN, "schedule": "cosine"}
    plan = make_plan(backbone=backbone(pretrain=pretrain, axes={"pretrain_steps": [10, 20]}))
    assert [run.snapshots for run in plan.bases.trainings] == [(10,), (20,)]


def test_groups_tasks_and_images_are_the_same_for_all_bases(plan: Plan) -> None:
    """All bases use the same groups, and images for pretraining alone come last."""
    groups: dict[str, list[str]] = {}
    for cell in plan.cells:
        groups.setdefault(cell.setting.name, []).append(cell.group.name)
    assert set(map(tuple, groups.values())) == {("2x00", "2x01", "2x02")}
    tasks = [data.task for data in plan.datasets]
    assert tasks == ["emoji_objects", "font_letters", "mnist_5k", "mnist_m"]


def test_group_is_merged_on_the_base_of_its_experts(plan: Plan) -> None:
    """All experts of a merge have the same base, so that task vectors can be summed."""
    for cell in plan.cells:
        base = plan.bases.by_point[cell.setting.base]
        assert cell.merge.base_id == base.id
        assert {expert.base_id for expert in cell.merge.experts} == {base.id}


def test_base_is_known_by_how_it_was_pretrained(make_plan: Callable[..., Plan]) -> None:
    """Every field of the pretraining, and its images, enter the ids of bases and experts."""
    first = make_plan(backbone=backbone(pretrain=PRETRAIN))
    changes: list[dict[str, Any]] = [
        {"tasks": ["mnist_m"]},
        {"steps": 21},
        {"batch_size": 8},
        {"lr": 0.001},
        {"optimizer": {"name": "sgd"}},
        {"schedule": "cosine"},
        {"seed": 1},
    ]
    plans = [make_plan(backbone=backbone(pretrain={**PRETRAIN, **each})) for each in changes]
    plans.append(make_plan(backbone=backbone(pretrain=PRETRAIN, image_size=33)))
    plans.append(make_plan(backbone=backbone(pretrain=PRETRAIN), seed=1))
    for plan in plans:
        ids = {training.id for training in plan.bases.trainings}
        assert ids.isdisjoint(training.id for training in first.bases.trainings)
        assert not set(plan.experts) & set(first.experts)
    again = backbone(pretrain={**PRETRAIN, "tasks": ["mnist_5k", "mnist_m"]})
    assert set(make_plan(backbone=again).experts) == set(first.experts)


def test_grid_crosses_bases_with_hyperparameters(make_plan: Callable[..., Plan]) -> None:
    """All settings of a base follow one another, so that a worker changes its model rarely."""
    plan = make_plan(
        backbone=backbone(axes={"model": ["test_resnet", "test_vit"]}),
        finetune={"defaults": DEFAULTS, "axes": {"lr": [0.1, 0.2]}, "design": "grid"},
    )
    assert [setting.name for setting in plan.settings] == [
        "model=test_resnet, lr=0.1",
        "model=test_resnet, lr=0.2",
        "model=test_vit, lr=0.1",
        "model=test_vit, lr=0.2",
    ]


def test_models_can_have_weights_of_their_own(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
    """A mapping gives each model weights of its own."""
    (tmp_path / "vit.pth").write_bytes(b"any")
    weights = {"test_resnet": "none", "test_vit": str(tmp_path / "vit.pth")}
    plan = make_plan(
        backbone=backbone(weights=weights, axes={"model": ["test_resnet", "test_vit"]})
    )
    kinds = {job.spec.model: job.spec.weights.partition(":")[0] for job in plan.bases.jobs}
    assert kinds == {"test_resnet": "none", "test_vit": "sha256"}


def test_trials_wait_for_the_base_that_is_pretrained(plan: Plan, base_manifest: Make) -> None:
    """Pretraining starts at once, together with the trials of bases without pretraining."""
    ledger = Ledger(plan, manifests=[])
    first = ledger.state().runnable_trainings
    assert first[:2] == plan.bases.trainings
    plain = named(plan)["pretrain_steps=0"]
    assert {trial.base_id for trial in first[2:]} == {plain.id}
    short, long = plan.bases.trainings[0].outputs
    ledger.add(base_manifest(short))
    left, *_ = ledger.state().runnable_trainings
    assert isinstance(left, Pretraining)
    assert left.snapshots == (50,)
    trials = ledger.state().runnable_trainings[2:]
    assert {trial.base_id for trial in trials} == {plain.id, short.id}
    ledger.add(base_manifest(long))
    assert plan.bases.trainings[1] in ledger.state().runnable_trainings
    assert not ledger.state().is_finished


def test_failed_pretraining_blocks_what_needs_its_bases(plan: Plan) -> None:
    """Holes name the failed bases, and the experts and merges that they block."""
    ledger = Ledger(plan, manifests=[])
    run = plan.bases.trainings[0]
    ledger.fail(run.id, reason="no room")
    assert run not in ledger.state().runnable_trainings
    holes = ledger.state().holes()
    failed = {hole.id: hole.reason for hole in holes if hole.outcome is Outcome.FAILED}
    assert failed == {base.id: "no room" for base in run.outputs}
    blocked = [hole.kind for hole in holes if hole.reason == f"blocked by failed base {run.id}"]
    assert Counter(blocked) == {"expert": 3, "merge": 3}


def test_diverged_base_ends_the_study_of_its_experts(
    make_plan: Callable[..., Plan], base_manifest: Make
) -> None:
    """No trial can start from a diverged base, so nothing is left to run."""
    plan = make_plan(backbone=backbone(pretrain=PRETRAIN))
    (run,) = plan.bases.trainings
    ledger = Ledger(plan, manifests=[base_manifest(run.longest, has_weights=False)])
    assert ledger.state().runnable_trainings == ()
    assert ledger.state().is_finished
    reasons = {hole.kind: hole.reason for hole in ledger.state().holes()}
    assert reasons == {
        "base": "not finite after 7 steps",
        "expert": f"blocked by diverged base {run.id}",
        "merge": f"blocked by diverged base {run.id}",
    }


def test_tables_and_tracking_say_which_base(
    plan: Plan, all_manifests: Callable[[Plan], list[Manifest]]
) -> None:
    """Means are taken over the groups of one base, and models keep the study's order."""
    manifests = all_manifests(plan)
    ledger = Ledger(plan, manifests=manifests)
    results = results_table(ledger.committed())
    rows = {
        row["setting"]: (row["backbone"], row["weights"], row["pretrain_steps"])
        for table in (results, experts_table(ledger.committed()))
        for row in table.to_pylist()
    }
    assert rows["model=test_vit"] == ("test_vit", "none", 20)
    assert rows["pretrain_steps=50"] == ("test_resnet", "none", 50)
    assert rows["pretrain_steps=0"] == ("test_resnet", "none", 0)
    values = [(mean.axis, mean.value) for mean in setting_means(results)]
    assert values == [
        ("model", "test_resnet"),
        ("model", "test_vit"),
        *(("pretrain_steps", steps) for steps in ("0", "20", "50")),
    ]
    run = mlflow_run_of(manifests[-1], ledger=ledger)
    assert run is not None
    assert {name: run.params[name] for name in ("backbone", "weights", "pretrain_steps")} == {
        "backbone": "test_resnet",
        "weights": "none",
        "pretrain_steps": "50",
    }


def test_plan_is_printed_with_its_bases(plan: Plan, make_plan: Callable[..., Plan]) -> None:
    """The lines name the axes and shared pretraining; a study of one base has none."""
    assert [*axis_lines(plan), *base_lines(plan)] == [
        "axis model: test_resnet, test_vit",
        "axis pretrain_steps: 0, 20, 50",
        "pretraining: 3 bases, snapshots of 2 trainings with 70 steps",
    ]
    assert base_lines(make_plan()) == []

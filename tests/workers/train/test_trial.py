import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch import Tensor

from eval.evaluate import evaluate
from eval.metrics import TaskSums
from workers.artifacts.manifests import Manifest
from workers.merging.merge_job import run_merge
from workers.models.tensor_files import TensorFile
from workers.specs.bases import BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import TrialSpec
from workers.train.resumable import Timing
from workers.train.trainer import DivergedError, Trainer
from workers.train.trial import run_trial
from workers.workspace import EXPERT_FILE, Workspace

Run = Callable[..., list[Manifest]]
NewWorkspace = Callable[[], Workspace]
MakeExpert = Callable[..., ExpertSpec]

ADAM = {"optimizer": "adam", "momentum": 0.9, "weight_decay": 0.01}
SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01}


@pytest.fixture
def two_stores(prepared_store: Path, tmp_path: Path) -> Callable[[str], Workspace]:
    """Returns a function that opens a workspace on a new store, with base and images linked."""

    def open_one(name: str) -> Workspace:
        root = tmp_path / name
        (root / "artifacts").mkdir(parents=True)
        for kind in ("base", "data"):
            (root / "artifacts" / kind).symlink_to(prepared_store / "artifacts" / kind)
        return Workspace(str(root), cache_root=tmp_path / "cache", device=torch.device("cpu"))

    return open_one


def bits(manifest: Manifest) -> tuple[Any, ...]:
    """Returns everything of an expert that must not depend on how it was trained."""
    files = [(entry.name, entry.sha256) for entry in manifest.files]
    return manifest.id, files, dict(manifest.metrics), manifest.outcome


def raise_diverged(_trainer: Trainer) -> None:
    raise DivergedError("at once")


def tensors_of(manifest: Manifest, *, workspace: Workspace) -> Mapping[str, Tensor]:
    return TensorFile(workspace.file("expert", manifest.id, EXPERT_FILE))


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("freeze", [False, True], ids=["moving", "frozen"])
def test_snapshot_is_bit_for_bit_a_shorter_trial(
    two_stores: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    optimizer: dict[str, Any],
    *,
    freeze: bool,
) -> None:
    """Weights, head, scores and loss curve are equal, despite the evaluations on the way."""
    spec = make_expert(**optimizer, freeze_batch_norm=freeze, steps=6)
    long = run(spec, 2, 4, 6, workspace=two_stores("long"))
    for snapshot in long:
        steps = int(snapshot.spec["steps"])
        (short,) = run(spec.with_steps(steps), workspace=two_stores(f"short{steps}"))
        assert bits(short) == bits(snapshot)


@pytest.mark.parametrize(
    "changes",
    [
        {"average_weights": "ema", "ema_decay": 0.9},
        {**SGD, "sam_rho": 0.1, "warmup_steps": 3, "augment": "crop_flip"},
        {"head": "probe_first", "probe_l2": 1.0},
        {"linearised": True, "freeze_batch_norm": True},
    ],
    ids=["ema", "sam", "probe", "linearised"],
)
def test_snapshot_of_any_kind_is_bit_for_bit_a_shorter_trial(
    two_stores: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    changes: dict[str, Any],
) -> None:
    """This holds for every kind of training whose steps do not depend on their number."""
    spec = make_expert(steps=4, **changes)
    assert not spec.hyperparameters.depends_on_total
    snapshot, _ = run(spec, 2, 4, workspace=two_stores("long"))
    (short,) = run(spec.with_steps(2), workspace=two_stores("short"))
    assert bits(short) == bits(snapshot)


def test_snapshots_differ_from_one_another(
    workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """A trial that never trains would pass the test above."""
    first, second = run(make_expert(steps=4), 2, 4, workspace=workspace)
    assert first.file(EXPERT_FILE).sha256 != second.file(EXPERT_FILE).sha256
    assert first.metrics["train_loss"] != second.metrics["train_loss"]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_one_spec_gives_the_same_bits_twice(
    two_stores: Callable[[str], Workspace], make_expert: MakeExpert, run: Run, schedule: str
) -> None:
    """The state of torch's random generator does not matter."""
    spec = make_expert(schedule=schedule, data_ratio=0.5)
    (first,) = run(spec, workspace=two_stores("a"))
    torch.manual_seed(99)
    (second,) = run(spec, workspace=two_stores("b"))
    assert bits(first) == bits(second)


@pytest.mark.parametrize("policy", ["average", "recalibrate", "per_task"])
def test_warm_process_gives_the_bits_of_a_fresh_one(
    two_stores: Callable[[str], Workspace], make_expert: MakeExpert, run: Run, policy: str
) -> None:
    """Earlier trials and merges leave no statistics, modes or momenta behind."""
    spec = make_expert("bluemarble_regions")
    (fresh,) = run(spec, workspace=two_stores("fresh"))
    warm = two_stores("warm")
    others = [
        make_expert("mnist_5k", freeze_batch_norm=True, lr=0.2),
        make_expert("mnist_m", **ADAM),
    ]
    for other in others:
        run(other, workspace=warm)
    merge = MergeSpec(
        method="average",
        params={},
        batch_norm=policy,
        recalibration_images=16 if policy == "recalibrate" else 0,
        seed=0,
        base_id=spec.base_id,
        experts=tuple(others),
        held_out=(),
    )
    run_merge(merge, workspace=warm)
    run(make_expert("mnist_5k", lr=1e30, steps=5), workspace=warm)
    (after,) = run(spec, workspace=warm)
    assert bits(after) == bits(fresh)


def test_expert_file_loads_into_timm_by_its_names(
    workspace: Workspace, make_expert: MakeExpert, base: BaseSpec, run: Run
) -> None:
    """Backbone and head have a prefix each; the metadata has the task and the id."""
    (manifest,) = run(make_expert("bluemarble_regions"), workspace=workspace)
    path = workspace.file("expert", manifest.id, EXPERT_FILE)
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        about = {"task": "bluemarble_regions", "id": manifest.id}
        assert json.loads(file.metadata()["mergesweep"]) == about
    backbone = timm.create_model(base.model, pretrained=False, num_classes=0)
    whole = {f"backbone.{name}" for name in backbone.state_dict()}
    assert names == whole | {"head.weight", "head.bias"}
    backbone.load_state_dict(dict(TensorFile(path, prefix="backbone.")), strict=True)
    classes = int(manifest.metrics["num_classes"])
    assert TensorFile(path, prefix="head.")["weight"].shape == (classes, 256)


def test_scores_are_those_of_the_committed_weights(
    workspace: Workspace, make_expert: MakeExpert, base: BaseSpec, run: Run
) -> None:
    """Expert and base, under the expert's head, are evaluated again from the store."""
    spec = make_expert()
    (manifest,) = run(spec, workspace=workspace)
    split = workspace.split(spec.data_id, "test")
    head = workspace.expert_head(spec.id)
    backbone = workspace.base_backbone(base.id)
    for weights, name in [
        (workspace.base_tensors(base.id), "base"),
        (workspace.expert_tensors(spec.id), "test"),
    ]:
        backbone.module.load_state_dict(dict(weights))
        sums = evaluate(
            backbone.module,
            head,
            split=split,
            normalization=backbone.normalization,
            device=workspace.device,
        )
        assert manifest.metrics[name] == sums.to_json()
    assert manifest.metrics["test"]["num_examples"] == 48
    assert manifest.metrics["test"] != manifest.metrics["base"]


def test_training_lowers_the_loss(workspace: Workspace, make_expert: MakeExpert, run: Run) -> None:
    """On real images, accuracy rises from chance to most of the training images."""
    spec = make_expert("mnist_5k", steps=40, lr=0.01, **ADAM)
    (manifest,) = run(spec, workspace=workspace)
    curve = manifest.metrics["train_curve"]
    assert curve[0][1] > 2.0
    assert manifest.metrics["train_loss"] < 0.7 * curve[0][1]
    assert manifest.metrics["steps_taken"] == 40
    base = TaskSums.from_json(manifest.metrics["base"])
    assert TaskSums.from_json(manifest.metrics["test"]).accuracy > base.accuracy


def test_manifest_names_its_inputs(workspace: Workspace, make_expert: MakeExpert, run: Run) -> None:
    """The inputs are the base and the images with the digests of their manifests."""
    spec = make_expert()
    (manifest,) = run(spec, workspace=workspace)
    assert dict(manifest.inputs) == {
        spec.base_id: workspace.manifest("base", spec.base_id).digest,
        spec.data_id: workspace.manifest("data", spec.data_id).digest,
    }


def test_second_worker_keeps_the_first_expert(
    new_workspace: NewWorkspace, make_expert: MakeExpert, run: Run
) -> None:
    """A worker that was thought dead loses and reports the winner's manifest."""
    (first,) = run(make_expert(), workspace=new_workspace())
    (second,) = run(make_expert(), workspace=new_workspace())
    assert second == first


def test_diverged_trial_commits_every_snapshot_without_weights(
    workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """BatchNorm's statistics are not finite: there is no file, no score and no error."""
    before, *after = run(make_expert(lr=1e30, steps=6), 1, 3, 6, workspace=workspace)
    assert before.outcome == "done"
    assert [manifest.spec["steps"] for manifest in after] == [3, 6]
    for manifest in after:
        assert manifest.outcome == "diverged"
        assert manifest.files == ()
        assert manifest.metrics["test"] is None
        assert manifest.metrics["base"] is None
        assert manifest.metrics["steps_taken"] == 1
        assert math.isfinite(manifest.metrics["train_loss"])


def test_trial_that_diverges_in_its_first_step_has_no_training_loss(
    workspace: Workspace,
    make_expert: MakeExpert,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss is None, because a manifest cannot contain NaN."""
    monkeypatch.setattr(Trainer, "advance", raise_diverged)
    (manifest,) = run(make_expert(), workspace=workspace)
    assert manifest.outcome == "diverged"
    assert manifest.metrics["train_loss"] is None
    assert manifest.metrics["train_curve"] == []


def test_diverged_expert_with_finite_weights_keeps_its_file(
    workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """The expert's merges can run with the weights from before the divergence."""
    spec = make_expert(lr=1e30, steps=5, freeze_batch_norm=True)
    one, five = run(spec, 1, 5, workspace=workspace)
    assert (one.outcome, five.outcome) == ("done", "diverged")
    assert five.metrics["steps_taken"] == 1
    last, before = (tensors_of(each, workspace=workspace) for each in (five, one))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in last.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in last.items())
    assert five.metrics["test"]["num_examples"] == 48


def test_scores_that_are_not_finite_become_none(
    workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """Finite weights can overflow during the evaluation; the manifest then has no loss."""
    spec = make_expert(steps=1, lr=1e18, freeze_batch_norm=True)
    (manifest,) = run(spec, workspace=workspace)
    assert manifest.files != ()
    assert manifest.metrics["test"]["loss_sum"] is None
    assert manifest.metrics["test"]["num_examples"] == 48


def test_progress_is_reported_at_the_interval_and_at_snapshots(
    workspace: Workspace, make_expert: MakeExpert
) -> None:
    """The clock advances by a second per call, and a report is due every 3.5 seconds."""
    ticks = iter(range(1000))
    timing = Timing(report_every_s=3.5, clock=lambda: float(next(ticks)))
    spec = TrialSpec(longest=make_expert(steps=10), snapshots=(5, 10))
    reports = list(run_trial(spec, workspace=workspace, timing=timing))
    committed = [(report.step, len(report.committed)) for report in reports]
    assert [entry for entry in committed if entry[1]] == [(5, 1), (10, 1)]
    between = [step for step, num in committed if not num]
    assert between
    assert all(step < 10 for step in between)
    assert [report.step for report in reports] == sorted(report.step for report in reports)
    assert all(report.loss is not None for report in reports)


def test_uninterrupted_trial_lists_checkpoints_once(
    workspace: Workspace, make_expert: MakeExpert, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one listing, and nothing to delete."""
    asked: list[tuple[str, object]] = []
    store = workspace.artifacts.store
    for name in ("list", "delete"):
        method = getattr(store, name)
        monkeypatch.setattr(
            store, name, lambda of, name=name, ask=method: asked.append((name, of)) or ask(of)
        )
    spec = make_expert()
    run(spec, workspace=workspace)
    assert asked == [("list", f"in-flight/{spec.id}/")]

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.suites import find_task
from workers.artifacts.manifests import Manifest
from workers.specs.data import DataSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.training import (
    BaseSpec,
    ExpertSpec,
    PretrainRun,
    PretrainSpec,
    TrialSpec,
)
from workers.train.checkpoint_interval import CheckpointInterval
from workers.train.pretrain import run_pretraining
from workers.train.resumable import Timing, TrainingProgress
from workers.train.trainer import DivergedError, Trainer
from workers.train.trial import run_trial
from workers.workspace import BASE_FILE, MissingArtifactError, Workspace

CPU = torch.device("cpu")
SILENT = Timing(report_every_s=1e9)
Make = Callable[..., PretrainRun]


@pytest.fixture
def make_run(base: BaseSpec, datasets: Mapping[str, DataSpec]) -> Make:
    """Returns what specifies a pretraining on all three tasks, given its snapshots."""
    tasks = tuple(sorted(datasets))

    def make(*snapshots: int, **changes: Any) -> PretrainRun:  # noqa: ANN401 any field
        spec = PretrainSpec(
            tasks=tasks,
            data_ids=tuple(datasets[task].id for task in tasks),
            hyperparameters=Hyperparameters(
                steps=snapshots[-1],
                batch_size=12,
                lr=0.003,
                data_ratio=1.0,
                optimizer="adam",
                seed=0,
                weight_decay=0.01,
            ),
            constants=TrainingConstants(momentum=0.9, freeze_batch_norm=False),
        )
        longest = replace(base, pretrain=replace(spec, **changes))
        return PretrainRun(longest=longest, snapshots=snapshots)

    return make


def pretrain(run: PretrainRun, *, workspace: Workspace) -> list[Manifest]:
    return committed(run_pretraining(run, workspace=workspace, timing=SILENT))


def committed(progress: Iterator[TrainingProgress]) -> list[Manifest]:
    return [manifest for each in progress for manifest in each.committed]


def bits(manifest: Manifest) -> tuple[Any, ...]:
    files = [(entry.name, entry.sha256) for entry in manifest.files]
    return manifest.id, files, dict(manifest.metrics), manifest.outcome


def test_base_learns_all_tasks_at_once(make_run: Make, workspace: Workspace) -> None:
    """The loss falls from the logarithm of all classes; every task has its sums."""
    run = make_run(40)
    (manifest,) = pretrain(run, workspace=workspace)
    assert (manifest.kind, manifest.id, manifest.outcome) == ("base", run.id, "done")
    classes = [find_task(task).num_classes for task in run.pretrain.tasks]
    assert manifest.metrics["num_classes"] == sum(classes)
    first, last = manifest.metrics["train_curve"][0][1], manifest.metrics["train_loss"]
    assert first > 2.5
    assert last < 0.8 * first
    assert set(manifest.metrics["tasks"]) == set(run.pretrain.tasks)
    assert {sums["num_examples"] for sums in manifest.metrics["tasks"].values()} == {48}
    consumed = {run.longest.initial.id, *run.pretrain.data_ids}
    assert set(manifest.inputs) == consumed


def test_snapshot_is_the_run_of_so_many_steps(
    make_run: Make, new_workspace: Callable[[], Workspace], store_root: Path, tmp_path: Path
) -> None:
    """Bit for bit: bases that differ only in the number of steps are one run."""
    other = Workspace(str(copied(store_root, tmp_path)), cache_root=tmp_path / "c", device=CPU)
    snapshots = pretrain(make_run(3, 7), workspace=new_workspace())
    alone = [*pretrain(make_run(3), workspace=other), *pretrain(make_run(7), workspace=other)]
    assert [bits(each) for each in snapshots] == [bits(each) for each in alone]


def test_base_starts_from_the_given_weights_and_ends_elsewhere(
    make_run: Make, base: BaseSpec, workspace: Workspace
) -> None:
    """What is committed loads into the model; the initial base stays as it was."""
    before = {name: t.clone() for name, t in workspace.base_tensors(base.id).items()}
    run = make_run(2)
    pretrain(run, workspace=workspace)
    after = dict(workspace.base_tensors(run.id))
    assert after.keys() == before.keys()
    assert not torch.equal(after["conv_stem.weight"], before["conv_stem.weight"])
    assert int(after["bn1.num_batches_tracked"]) == 2
    again = workspace.base_backbone(base.id).module.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.items())


@pytest.mark.parametrize("killed_at", [2, 5, 7])
def test_interrupted_pretraining_ends_with_the_bits_of_an_undisturbed_one(
    make_run: Make,
    new_workspace: Callable[[], Workspace],
    store_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    killed_at: int,
) -> None:
    """Before, at and after its first snapshot; no step that a checkpoint holds is repeated."""
    run = make_run(5, 8)
    undisturbed = Workspace(
        str(copied(store_root, tmp_path)), cache_root=tmp_path / "other", device=CPU
    )
    expected = pretrain(run, workspace=undisturbed)
    monkeypatch.setattr(CheckpointInterval, "is_due", lambda _, trainer: trainer.step == killed_at)
    steps: list[int] = []
    advance = Trainer.advance

    def dying(trainer: Trainer) -> None:
        if trainer.step == killed_at and killed_at not in steps:
            steps.append(killed_at)
            raise KeyboardInterrupt
        steps.append(trainer.step)
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", dying)
    with pytest.raises(KeyboardInterrupt):
        pretrain(run, workspace=new_workspace())
    workspace = new_workspace()
    assert list(workspace.artifacts.store.list("in-flight/"))
    pretrain(run, workspace=workspace)
    found = [workspace.manifest("base", each.id) for each in run.bases]
    assert [bits(each) for each in found] == [bits(each) for each in expected]
    assert sorted(steps) == sorted([*range(8), killed_at])
    assert not list(workspace.artifacts.store.list("in-flight/"))


def test_closed_pretraining_goes_on_from_where_it_stood(
    make_run: Make,
    new_workspace: Callable[[], Workspace],
    store_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver that stops one loses none of its steps."""
    run = make_run(2, 6)
    undisturbed = Workspace(
        str(copied(store_root, tmp_path)), cache_root=tmp_path / "other", device=CPU
    )
    expected = pretrain(run, workspace=undisturbed)
    progress = run_pretraining(run, workspace=new_workspace(), timing=Timing(report_every_s=-1.0))
    assert [next(progress).step for _ in range(4)] == [1, 2, 3, 4]
    progress.close()  # type: ignore[attr-defined]
    steps: list[int] = []
    advance = Trainer.advance

    def counted(trainer: Trainer) -> None:
        steps.append(trainer.step)
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", counted)
    workspace = new_workspace()
    pretrain(run, workspace=workspace)
    assert steps == [4, 5]
    found = [workspace.manifest("base", each.id) for each in run.bases]
    assert [bits(each) for each in found] == [bits(each) for each in expected]
    assert not list(workspace.artifacts.store.list("in-flight/"))


def test_diverged_pretraining_leaves_bases_without_weights(
    make_run: Make, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot before is whole; no expert can start from the one after."""
    advance = Trainer.advance

    def diverging(trainer: Trainer) -> None:
        if trainer.step == 3:
            raise DivergedError("the loss is nan at step 3")
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", diverging)
    whole, lost = pretrain(make_run(2, 5), workspace=workspace)
    assert (whole.outcome, lost.outcome, lost.files) == ("done", "diverged", ())
    assert (lost.metrics["steps_taken"], lost.metrics["tasks"]) == (3, None)
    with pytest.raises(MissingArtifactError, match=f"base {lost.id} has no files.*diverged"):
        workspace.file("base", lost.id, BASE_FILE)


def test_expert_starts_from_the_pretrained_base(
    make_run: Make, make_expert: Callable[..., ExpertSpec], workspace: Workspace
) -> None:
    """Its manifest names the base, and the base's score is that of the pretrained one."""
    run = make_run(30)
    pretrain(run, workspace=workspace)
    spec = make_expert(base_id=run.id, steps=1)
    plain = make_expert(steps=1)
    manifests = [
        committed(
            run_trial(TrialSpec(longest=each, snapshots=(1,)), workspace=workspace, timing=SILENT)
        )[0]
        for each in (spec, plain)
    ]
    assert run.id in manifests[0].inputs
    assert manifests[0].metrics["base"] != manifests[1].metrics["base"]


def test_missing_images_are_named(make_run: Make, workspace: Workspace) -> None:
    """A pretraining runs after the images are prepared."""
    run = make_run(1, tasks=("a",), data_ids=("f" * 16,))
    with pytest.raises(MissingArtifactError, match="data ffffffffffffffff is not committed"):
        pretrain(run, workspace=workspace)


def copied(store_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_root, tmp_path / "undisturbed"))

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.evaluate import evaluate
from eval.suites import find_task
from workers.artifacts.manifests import Manifest
from workers.models.heads import head_of
from workers.models.tensor_files import TensorFile
from workers.specs.bases import BaseSpec, PretrainSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.training import Pretraining, TrialSpec
from workers.train.checkpoint_interval import CheckpointInterval
from workers.train.pretrain import HEADS_FILE, run_pretraining
from workers.train.resumable import Timing, TrainingProgress
from workers.train.trainer import DivergedError, Trainer
from workers.train.trial import run_trial
from workers.workspace import BASE_FILE, MissingArtifactError, Workspace

CPU = torch.device("cpu")
SILENT = Timing(report_every_s=1e9)
Make = Callable[..., Pretraining]


@pytest.fixture
def make_pretraining(base: BaseSpec, datasets: Mapping[str, DataSpec]) -> Make:
    """Returns a function that specifies a pretraining on three tasks, given its snapshots."""
    tasks = tuple(sorted(datasets))

    def make(*snapshots: int, **changes: Any) -> Pretraining:  # noqa: ANN401 any field
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
        return Pretraining(longest=longest, snapshots=snapshots)

    return make


def pretrain(pretraining: Pretraining, *, workspace: Workspace) -> list[Manifest]:
    return committed(run_pretraining(pretraining, workspace=workspace, timing=SILENT))


def committed(progress: Iterator[TrainingProgress]) -> list[Manifest]:
    return [manifest for each in progress for manifest in each.committed]


def bits(manifest: Manifest) -> tuple[Any, ...]:
    files = [(entry.name, entry.sha256) for entry in manifest.files]
    return manifest.id, files, dict(manifest.metrics), manifest.outcome


def test_base_learns_all_tasks_at_once(make_pretraining: Make, workspace: Workspace) -> None:
    """The loss falls from the logarithm of the number of all classes; every task has its sums."""
    pretraining = make_pretraining(40)
    (manifest,) = pretrain(pretraining, workspace=workspace)
    assert (manifest.kind, manifest.id, manifest.outcome) == ("base", pretraining.id, "done")
    classes = [find_task(task).num_classes for task in pretraining.recipe.tasks]
    assert manifest.metrics["num_classes"] == sum(classes)
    first, last = manifest.metrics["train_curve"][0][1], manifest.metrics["train_loss"]
    assert first > 2.5
    assert last < 0.8 * first
    assert set(manifest.metrics["tasks"]) == set(pretraining.recipe.tasks)
    assert {sums["num_examples"] for sums in manifest.metrics["tasks"].values()} == {48}
    consumed = {pretraining.base_id, *pretraining.recipe.data_ids}
    assert set(manifest.inputs) == consumed


def test_snapshot_is_bit_for_bit_a_shorter_pretraining(
    make_pretraining: Make, new_workspace: Callable[[], Workspace], store_root: Path, tmp_path: Path
) -> None:
    """Bases that differ only in the number of steps share one training."""
    other = Workspace(str(copied(store_root, tmp_path)), cache_root=tmp_path / "c", device=CPU)
    snapshots = pretrain(make_pretraining(3, 7), workspace=new_workspace())
    alone = [
        *pretrain(make_pretraining(3), workspace=other),
        *pretrain(make_pretraining(7), workspace=other),
    ]
    assert [bits(each) for each in snapshots] == [bits(each) for each in alone]


def test_base_starts_from_the_given_weights_and_ends_elsewhere(
    make_pretraining: Make, base: BaseSpec, workspace: Workspace
) -> None:
    """The committed weights load into the model; the initial base is unchanged."""
    before = {name: t.clone() for name, t in workspace.base_tensors(base.id).items()}
    pretraining = make_pretraining(2)
    pretrain(pretraining, workspace=workspace)
    after = dict(workspace.base_tensors(pretraining.id))
    assert after.keys() == before.keys()
    assert not torch.equal(after["conv_stem.weight"], before["conv_stem.weight"])
    assert int(after["bn1.num_batches_tracked"]) == 2
    again = workspace.base_backbone(base.id).module.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.items())


def test_multi_task_model_has_a_head_for_each_task(
    make_pretraining: Make, workspace: Workspace
) -> None:
    """The loss of an image sees its task's classes alone, and the artifact has the heads."""
    joint = make_pretraining(1)
    model = make_pretraining(40, heads="per_task")
    assert BaseSpec.from_json(model.longest.to_json()) == model.longest
    assert model.longest.with_steps(1).id != joint.id
    (manifest,) = pretrain(model, workspace=workspace)
    first, last = manifest.metrics["train_curve"][0][1], manifest.metrics["train_loss"]
    assert first < 0.9 * pretrain(joint, workspace=workspace)[0].metrics["train_loss"]
    assert last < 0.9 * first
    heads = TensorFile(workspace.file("base", model.id, HEADS_FILE))
    backbone = workspace.base_backbone(model.id)
    for task, data_id in zip(model.recipe.tasks, model.recipe.data_ids, strict=True):
        head = head_of({name: heads[f"{task}.{name}"] for name in ("weight", "bias")})
        assert head.out_features == find_task(task).num_classes
        found = evaluate(
            backbone.module,
            head,
            split=workspace.split(data_id, "test"),
            normalization=backbone.normalization,
            device=CPU,
        )
        assert found.to_json() == manifest.metrics["tasks"][task]


@pytest.mark.parametrize("changes", [{}, {"heads": "per_task"}], ids=["base", "multi-task"])
@pytest.mark.parametrize("killed_at", [2, 5, 7])
def test_interrupted_pretraining_ends_with_the_bits_of_an_undisturbed_one(
    make_pretraining: Make,
    new_workspace: Callable[[], Workspace],
    store_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    killed_at: int,
    changes: Mapping[str, Any],
) -> None:
    """The kill comes before, at or after the first snapshot.

    No step before the checkpoint is repeated.
    """
    pretraining = make_pretraining(5, 8, **changes)
    undisturbed = Workspace(
        str(copied(store_root, tmp_path)), cache_root=tmp_path / "other", device=CPU
    )
    expected = pretrain(pretraining, workspace=undisturbed)
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
        pretrain(pretraining, workspace=new_workspace())
    workspace = new_workspace()
    assert list(workspace.artifacts.store.list("in-flight/"))
    pretrain(pretraining, workspace=workspace)
    found = [workspace.manifest("base", each.id) for each in pretraining.outputs]
    assert [bits(each) for each in found] == [bits(each) for each in expected]
    assert sorted(steps) == sorted([*range(8), killed_at])
    assert not list(workspace.artifacts.store.list("in-flight/"))


def test_closed_pretraining_continues_from_its_last_step(
    make_pretraining: Make,
    new_workspace: Callable[[], Workspace],
    store_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver that stops a pretraining loses none of its steps."""
    pretraining = make_pretraining(2, 6)
    undisturbed = Workspace(
        str(copied(store_root, tmp_path)), cache_root=tmp_path / "other", device=CPU
    )
    expected = pretrain(pretraining, workspace=undisturbed)
    progress = run_pretraining(
        pretraining, workspace=new_workspace(), timing=Timing(report_every_s=-1.0)
    )
    assert [next(progress).step for _ in range(4)] == [1, 2, 3, 4]
    progress.close()  # type: ignore[attr-defined]
    steps: list[int] = []
    advance = Trainer.advance

    def counted(trainer: Trainer) -> None:
        steps.append(trainer.step)
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", counted)
    workspace = new_workspace()
    pretrain(pretraining, workspace=workspace)
    assert steps == [4, 5]
    found = [workspace.manifest("base", each.id) for each in pretraining.outputs]
    assert [bits(each) for each in found] == [bits(each) for each in expected]
    assert not list(workspace.artifacts.store.list("in-flight/"))


def test_diverged_pretraining_leaves_bases_without_weights(
    make_pretraining: Make, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot before the divergence is usable; no expert can start from the next one."""
    advance = Trainer.advance

    def diverging(trainer: Trainer) -> None:
        if trainer.step == 3:
            raise DivergedError("the loss is nan at step 3")
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", diverging)
    whole, lost = pretrain(make_pretraining(2, 5), workspace=workspace)
    assert (whole.outcome, lost.outcome, lost.files) == ("done", "diverged", ())
    assert (lost.metrics["steps_taken"], lost.metrics["tasks"]) == (3, None)
    with pytest.raises(MissingArtifactError, match=f"base {lost.id} has no files.*diverged"):
        workspace.file("base", lost.id, BASE_FILE)


def test_expert_starts_from_the_pretrained_base(
    make_pretraining: Make, make_expert: Callable[..., ExpertSpec], workspace: Workspace
) -> None:
    """The expert's manifest names the pretrained base and has that base's score."""
    pretraining = make_pretraining(30)
    pretrain(pretraining, workspace=workspace)
    spec = make_expert(base_id=pretraining.id, steps=1)
    plain = make_expert(steps=1)
    manifests = [
        committed(
            run_trial(TrialSpec(longest=each, snapshots=(1,)), workspace=workspace, timing=SILENT)
        )[0]
        for each in (spec, plain)
    ]
    assert pretraining.id in manifests[0].inputs
    assert manifests[0].metrics["base"] != manifests[1].metrics["base"]


def test_missing_images_are_named(make_pretraining: Make, workspace: Workspace) -> None:
    """The message has the id of the images, which must be prepared first."""
    pretraining = make_pretraining(1, tasks=("a",), data_ids=("f" * 16,))
    with pytest.raises(MissingArtifactError, match="data ffffffffffffffff is not committed"):
        pretrain(pretraining, workspace=workspace)


def copied(store_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_root, tmp_path / "undisturbed"))

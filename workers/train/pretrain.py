"""Runs a pretraining: trains a base on several tasks at once and commits it at each snapshot."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eval.evaluate import evaluate
from eval.images.joint_split import JointSplit
from eval.images.split import Split
from eval.metrics import TaskSums
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import PretrainMetrics
from workers.artifacts.provenance import Provenance
from workers.models.heads import head_of
from workers.models.tensor_files import write_tensors
from workers.models.tied_weights import own_state
from workers.sampling.determinism import compute_deterministically
from workers.specs.bases import BaseSpec, PretrainSpec
from workers.specs.training import Pretraining
from workers.store.scratch import scratch_directory
from workers.train.memory_share import WHOLE_BATCHES, MemoryShare
from workers.train.resumable import ResumableTraining, Snapshot, Timing, TrainingProgress
from workers.train.trainer import Trainer, create_head
from workers.train.trainer_state import are_finite
from workers.workspace import BASE_FILE, Workspace

HEADS_FILE = "heads.safetensors"
"""The heads of a multi-task model."""


@dataclass(frozen=True, kw_only=True)
class _StartedPretraining:
    """A pretraining with its model, ready for the first step."""

    spec: Pretraining
    trainer: Trainer
    workspace: Workspace
    memory: MemoryShare


def run_pretraining(
    spec: Pretraining,
    *,
    workspace: Workspace,
    timing: Timing,
    memory: MemoryShare = WHOLE_BATCHES,
) -> Iterator[TrainingProgress]:
    """Pretrains; yields at an interval and at every snapshot. The last yield is the end.

    The images of all tasks form one shuffled stream: a batch mixes tasks, and a task with twice the
    images is seen twice as often. One head covers the classes of all tasks; no base contains it. A
    multi-task model has a head per task, and its artifact has the heads: they are the rows of one
    matrix, of which the loss of an image sees those of its task.

    A pretraining resumes, and writes a checkpoint when its generator is closed, as a trial does
    (see `workers.train.trial`). After a loss that is not finite, the remaining bases are committed
    as `diverged` and without weights, and no expert can start from them.

    Args:
        spec: The pretraining.
        workspace: The process's store, models and images.
        timing: The intervals of reports and checkpoints.
        memory: How the pretraining is to fit its device.

    Raises:
        MissingArtifactError: The initial base or the images are not committed.
        StoreError: The store fails, except while a checkpoint is written or removed.
        ManifestError, CorruptArtifactError: A committed artifact is damaged.
    """
    started_s = timing.clock()
    pretraining = _start(spec, workspace=workspace, memory=memory)
    training = ResumableTraining(
        spec=spec,
        trainer=pretraining.trainer,
        artifacts=workspace.artifacts,
        timing=timing,
        started_s=started_s,
    )
    yield from training.run(lambda base, at: _commit(base, at=at, pretraining=pretraining))


def joint_split(pretrain: PretrainSpec, *, name: str, workspace: Workspace) -> JointSplit:
    """Returns the `train` or `test` images of all tasks of a pretraining.

    Raises:
        MissingArtifactError: The images of a task are not committed.
    """
    return JointSplit(
        splits=tuple(workspace.split(data_id, name) for data_id in pretrain.data_ids),
        num_classes=tuple(workspace.num_classes(data_id) for data_id in pretrain.data_ids),
    )


def _start(spec: Pretraining, *, workspace: Workspace, memory: MemoryShare) -> _StartedPretraining:
    compute_deterministically()
    pretrain = spec.recipe
    train = joint_split(pretrain, name="train", workspace=workspace)
    backbone = workspace.base_backbone(spec.base_id)
    head = create_head(
        backbone.num_features,
        num_classes=train.num_joint_classes,
        seed=pretrain.hyperparameters.seed,
        task=" ".join(pretrain.tasks),
    )
    trainer = Trainer(
        spec=pretrain,
        backbone=backbone,
        head=head.to(workspace.device),
        train=train,
        device=workspace.device,
        micro_batch=memory.micro_batch,
    )
    return _StartedPretraining(spec=spec, trainer=trainer, workspace=workspace, memory=memory)


def _commit(base: BaseSpec, *, at: Snapshot, pretraining: _StartedPretraining) -> Manifest:
    with pretraining.trainer.expert_weights():
        return _commit_weights(base, at=at, pretraining=pretraining)


def _commit_weights(base: BaseSpec, *, at: Snapshot, pretraining: _StartedPretraining) -> Manifest:
    trainer, workspace = pretraining.trainer, pretraining.workspace
    tensors = own_state(trainer.backbone.module)
    is_usable = not at.diverged and are_finite(tensors.values())
    with scratch_directory("base") as scratch:
        path, files = scratch / BASE_FILE, {}
        if is_usable:
            about = {"model": base.model, "id": base.id}
            write_tensors(path, tensors, about=about)
            files[BASE_FILE] = path
        if is_usable and pretraining.spec.recipe.heads == "per_task":
            files[HEADS_FILE] = scratch / HEADS_FILE
            write_tensors(files[HEADS_FILE], _head_tensors(pretraining), about=about)
        manifest = workspace.artifacts.commit(
            Provenance.of(base, kind="base", inputs=_inputs(pretraining)),
            files=files,
            outcome="done" if is_usable else "diverged",
            metrics=PretrainMetrics(
                training=trainer.metrics(),
                num_entries=sum(tensor.numel() for tensor in tensors.values()),
                tasks=_scores(pretraining) if is_usable else None,
            ).to_json(),
            seconds={"pretrain": at.seconds},
            execution=pretraining.memory.execution(trainer.least_micro_batch),
        )
    workspace.remember(manifest)
    return manifest


def _inputs(pretraining: _StartedPretraining) -> dict[str, str]:
    spec, workspace = pretraining.spec, pretraining.workspace
    initial_id = spec.base_id
    data = {each: workspace.manifest("data", each).digest for each in spec.recipe.data_ids}
    return {initial_id: workspace.manifest("base", initial_id).digest, **data}


def _scores(pretraining: _StartedPretraining) -> dict[str, TaskSums]:
    """Evaluates the base on each task's test images, under the joint head or the task's own."""
    pretrain, trainer = pretraining.spec.recipe, pretraining.trainer
    if pretrain.heads == "per_task":
        heads = _task_heads(pretraining)
        return {
            task: _evaluate(trainer, head=heads[task], split=split)
            for task, split in _test_splits(pretraining).items()
        }
    tests = joint_split(pretrain, name="test", workspace=pretraining.workspace).relabelled
    return {
        task: _evaluate(trainer, head=trainer.head, split=split)
        for task, split in zip(pretrain.tasks, tests, strict=True)
    }


def _test_splits(pretraining: _StartedPretraining) -> dict[str, Split]:
    pretrain, workspace = pretraining.spec.recipe, pretraining.workspace
    return {
        task: workspace.split(data_id, "test")
        for task, data_id in zip(pretrain.tasks, pretrain.data_ids, strict=True)
    }


def _task_heads(pretraining: _StartedPretraining) -> dict[str, nn.Linear]:
    """Returns the head of every task: its rows of the trained matrix."""
    return {
        task: head_of({"weight": weight, "bias": bias}).to(pretraining.trainer.device)
        for task, (weight, bias) in _head_rows(pretraining).items()
    }


def _head_tensors(pretraining: _StartedPretraining) -> dict[str, Tensor]:
    """Returns the heads as `<task>.weight` and `<task>.bias`."""
    return {
        f"{task}.{name}": tensor
        for task, rows in _head_rows(pretraining).items()
        for name, tensor in zip(("weight", "bias"), rows, strict=True)
    }


def _head_rows(pretraining: _StartedPretraining) -> dict[str, tuple[Tensor, Tensor]]:
    trainer, pretrain = pretraining.trainer, pretraining.spec.recipe
    assert isinstance(trainer.train, JointSplit)
    sizes = list(trainer.train.num_classes)
    weights = torch.split(trainer.head.weight.detach(), sizes)
    biases = torch.split(trainer.head.bias.detach(), sizes)
    return dict(zip(pretrain.tasks, zip(weights, biases, strict=True), strict=True))


def _evaluate(trainer: Trainer, *, head: nn.Linear, split: Split) -> TaskSums:
    return evaluate(
        trainer.backbone.module,
        head,
        split=split,
        normalization=trainer.backbone.normalization,
        device=trainer.device,
    )

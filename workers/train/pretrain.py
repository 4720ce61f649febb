"""Runs one pretraining: trains a base on several tasks at once and commits it at each snapshot."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from eval.evaluate import evaluate
from eval.images.joint_split import JointSplit
from eval.images.split import Split
from eval.metrics import TaskSums
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import PretrainMetrics
from workers.models.tensor_files import write_tensors
from workers.sampling.determinism import compute_deterministically
from workers.specs.ids import VERSIONS
from workers.specs.spec_json import spec_to_json
from workers.specs.training import BaseSpec, PretrainRun, PretrainSpec
from workers.train.checkpoints import Checkpoints, Pace
from workers.train.fine_tune import FineTuning, create_head, recent_loss
from workers.train.resumable import CHECKPOINT_EVERY_S, ResumableRun, training_metrics
from workers.train.trial import TrialProgress
from workers.train.tuning_state import are_finite
from workers.workspace import BASE_FILE, Workspace


@dataclass(kw_only=True)
class _Run(ResumableRun):
    spec: PretrainRun
    workspace: Workspace


def run_pretraining(
    spec: PretrainRun,
    *,
    workspace: Workspace,
    report_every_s: float,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[TrialProgress]:
    """Trains, yielding at an interval and at every snapshot; the last yield is the end.

    The images of all tasks are one shuffled stream, so that a batch mixes them and a task of twice
    the images is seen twice as often. The joint head over all classes is dropped at the end.

    A run that was interrupted goes on, and one that is closed leaves a checkpoint, as a trial does:
    see `workers.train.trial`. One whose loss is not finite commits the bases that it has not
    reached as `diverged` and without weights: no expert can start from them.

    Args:
        spec: What to do.
        workspace: What the process keeps warm.
        report_every_s: Seconds between two reports.
        checkpoint_every_s: Least seconds between two checkpoints (`workers.train.checkpoints`).
        clock: Seconds, from any origin.

    Raises:
        MissingArtifactError: The initial base or the images are not committed.
        StoreError: The store fails, other than in writing or removing a checkpoint.
        ManifestError, CorruptArtifactError: What the store has committed is damaged.
    """
    run = _start(spec, workspace=workspace, clock=clock)
    before = run.resume(spec.snapshots, find=lambda position: _find(run, position))
    committed = {manifest.id: manifest for manifest in before}
    pace = Pace(min_interval_s=checkpoint_every_s, clock=clock)
    with run.kept_when_closed():
        for base, steps in zip(spec.bases, spec.snapshots, strict=True):
            for _ in run.advance(until=steps, report_every_s=report_every_s, pace=pace):
                yield _progress(run, step=run.tuning.step, committed=())
            manifest = committed.get(base.id) or _commit(base, run=run)
            if base == spec.longest:
                run.checkpoints.remove()
            yield _progress(run, step=steps, committed=(manifest,))
            run.tuning.set_training_mode()


def joint_split(pretrain: PretrainSpec, *, name: str, workspace: Workspace) -> JointSplit:
    """Returns the `train` or `test` images of all tasks of a pretraining.

    Raises:
        MissingArtifactError: The images of a task are not committed.
    """
    return JointSplit(
        splits=tuple(workspace.split(data_id, name) for data_id in pretrain.data_ids),
        num_classes=tuple(workspace.num_classes(data_id) for data_id in pretrain.data_ids),
    )


def _start(spec: PretrainRun, *, workspace: Workspace, clock: Callable[[], float]) -> _Run:
    started_s = clock()
    compute_deterministically()
    pretrain = spec.pretrain
    train = joint_split(pretrain, name="train", workspace=workspace)
    backbone = workspace.base_backbone(spec.longest.initial.id)
    head = create_head(
        backbone.num_features,
        num_classes=train.num_joint_classes,
        seed=pretrain.seed,
        task=" ".join(pretrain.tasks),
    )
    tuning = FineTuning(
        spec=pretrain,
        backbone=backbone,
        head=head.to(workspace.device),
        train=train,
        device=workspace.device,
    )
    return _Run(
        spec=spec,
        tuning=tuning,
        workspace=workspace,
        checkpoints=Checkpoints(workspace.artifacts.store, trial_id=spec.id),
        clock=clock,
        started_s=started_s,
    )


def _find(run: _Run, position: int) -> Manifest | None:
    return run.workspace.artifacts.find("base", run.spec.bases[position].id)


def _progress(run: _Run, *, step: int, committed: tuple[Manifest, ...]) -> TrialProgress:
    return TrialProgress(step=step, loss=recent_loss(run.tuning.losses[:step]), committed=committed)


def _commit(spec: BaseSpec, *, run: _Run) -> Manifest:
    tuning, workspace = run.tuning, run.workspace
    seconds = run.seconds()
    tensors = tuning.backbone.module.state_dict()
    whole = not run.diverged and are_finite(tensors.values())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / BASE_FILE
        if whole:
            write_tensors(path, tensors, about={"model": spec.model, "id": spec.id})
        manifest = workspace.artifacts.commit(
            "base",
            spec.id,
            version=VERSIONS["base"],
            spec=spec_to_json(spec),
            inputs=_inputs(run),
            files={BASE_FILE: path} if whole else {},
            outcome="done" if whole else "diverged",
            metrics=_metrics(run, tensors=tensors, whole=whole).to_json(),
            seconds={"pretrain": seconds},
        )
    workspace.remember(manifest)
    return manifest


def _inputs(run: _Run) -> dict[str, str]:
    workspace, initial_id = run.workspace, run.spec.longest.initial.id
    data = {each: workspace.manifest("data", each).digest for each in run.spec.pretrain.data_ids}
    return {initial_id: workspace.manifest("base", initial_id).digest, **data}


def _metrics(run: _Run, *, tensors: dict[str, Tensor], whole: bool) -> PretrainMetrics:
    """Evaluates the joint head on the test images of each task if the weights are finite."""
    return PretrainMetrics(
        training=training_metrics(run.tuning),
        num_entries=sum(tensor.numel() for tensor in tensors.values()),
        tasks=_scores(run) if whole else None,
    )


def _scores(run: _Run) -> dict[str, TaskSums]:
    pretrain, tuning = run.spec.pretrain, run.tuning
    tests = joint_split(pretrain, name="test", workspace=run.workspace).relabelled
    return {
        task: _evaluate(tuning, split=split)
        for task, split in zip(pretrain.tasks, tests, strict=True)
    }


def _evaluate(tuning: FineTuning, *, split: Split) -> TaskSums:
    return evaluate(
        tuning.backbone.module,
        tuning.head,
        split=split,
        normalization=tuning.backbone.normalization,
        device=tuning.device,
    )

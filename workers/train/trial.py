"""Runs one trial: fine-tunes on a task and commits an expert at each snapshot."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from eval.evaluate import evaluate, evaluate_head
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics
from workers.models.backbones import Backbone
from workers.models.tensor_files import write_tensors
from workers.models.weights import WeightsError
from workers.sampling.determinism import compute_deterministically
from workers.specs.ids import VERSIONS
from workers.specs.spec_json import spec_to_json
from workers.specs.training import ExpertSpec, TrialSpec
from workers.train.checkpoints import Checkpoints, Pace
from workers.train.fine_tune import FineTuning, create_head, recent_loss
from workers.train.resumable import CHECKPOINT_EVERY_S, ResumableRun, training_metrics
from workers.train.tuning_state import are_finite
from workers.workspace import EXPERT_FILE, Workspace


@dataclass(frozen=True, kw_only=True)
class TrialProgress:
    """How far a trial is."""

    step: int
    """Steps taken; at a snapshot its step count, also where the run diverged before."""
    loss: float | None
    """Recent training loss, nats per image."""
    committed: tuple[Manifest, ...]
    """Experts committed since the last report."""


@dataclass(kw_only=True)
class _Run(ResumableRun):
    spec: TrialSpec
    base_features: Tensor
    """(test images, features) of the base."""
    workspace: Workspace


def run_trial(
    spec: TrialSpec,
    *,
    workspace: Workspace,
    report_every_s: float,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[TrialProgress]:
    """Fine-tunes, yielding at an interval and at every snapshot; the last yield is the end.

    A trial that was interrupted, here or on any other machine, goes on from its last checkpoint and
    ends with the bits of one that was not. `seconds` in the experts' manifests leave out what the
    interruption cost: the time from the checkpoint on, and that until the trial was started again.

    A trial that is closed on its way leaves a checkpoint of the step it stands at.

    A training loss that is not finite ends the run: the snapshots that were not reached are
    committed as `diverged`, with the last weights if those are finite and without if they are not.

    Args:
        spec: What to do.
        workspace: What the process keeps warm.
        report_every_s: Seconds between two reports.
        checkpoint_every_s: Least seconds between two checkpoints (`workers.train.checkpoints`).
        clock: Seconds, from any origin.

    Raises:
        MissingArtifactError: The base, the images or the zero-shot head are not committed.
        WeightsError: The zero-shot head is for another backbone.
        StoreError: The store fails, other than in writing or removing a checkpoint.
        ManifestError, CorruptArtifactError: What the store has committed is damaged.
    """
    run = _start(spec, workspace=workspace, clock=clock)
    before = run.resume(spec.snapshots, find=lambda position: _find(run, position))
    committed = {manifest.id: manifest for manifest in before}
    pace = Pace(min_interval_s=checkpoint_every_s, clock=clock)
    with run.kept_when_closed():
        for expert in spec.experts:
            for _ in run.advance(until=expert.steps, report_every_s=report_every_s, pace=pace):
                yield TrialProgress(
                    step=run.tuning.step, loss=recent_loss(run.tuning.losses), committed=()
                )
            manifest = committed.get(expert.id) or _commit(expert, run=run)
            if expert == spec.longest:
                run.checkpoints.remove()
            yield TrialProgress(
                step=expert.steps,
                loss=recent_loss(run.tuning.losses[: expert.steps]),
                committed=(manifest,),
            )
            run.tuning.set_training_mode()


def _start(spec: TrialSpec, *, workspace: Workspace, clock: Callable[[], float]) -> _Run:
    started_s = clock()
    longest = spec.longest
    compute_deterministically()
    base_features = workspace.base_features(longest.base_id, longest.data_id)
    probe = None if longest.head.mode == "trained" else workspace.linear_probe(longest)
    backbone = workspace.base_backbone(longest.base_id, linearised=longest.linearised)
    head = probe or _head(longest, backbone=backbone, workspace=workspace)
    tuning = FineTuning(
        spec=longest,
        backbone=backbone,
        head=head.to(workspace.device),
        train=workspace.split(longest.data_id, "train"),
        device=workspace.device,
    )
    return _Run(
        spec=spec,
        tuning=tuning,
        base_features=base_features,
        workspace=workspace,
        checkpoints=Checkpoints(workspace.artifacts.store, trial_id=spec.id),
        clock=clock,
        started_s=started_s,
    )


def _head(spec: ExpertSpec, *, backbone: Backbone, workspace: Workspace) -> nn.Linear:
    if spec.head_id is None:
        return create_head(
            backbone.num_features,
            num_classes=workspace.num_classes(spec.data_id),
            seed=spec.seed,
            task=spec.task,
        )
    head = workspace.zero_shot_head(spec.head_id)
    if head.in_features != backbone.num_features:
        raise WeightsError(
            f"the zero-shot head of {spec.task} is for embeddings of width {head.in_features}, the "
            f"backbone gives {backbone.num_features} features: both have to be of one CLIP model"
        )
    return head


def _find(run: _Run, position: int) -> Manifest | None:
    return run.workspace.artifacts.find("expert", run.spec.experts[position].id)


def _commit(spec: ExpertSpec, *, run: _Run) -> Manifest:
    seconds = run.seconds()
    with run.tuning.expert_weights() as tensors:
        manifest = _commit_weights(spec, tensors=tensors, run=run, seconds=seconds)
    run.workspace.remember(manifest)
    return manifest


def _commit_weights(
    spec: ExpertSpec, *, tensors: Mapping[str, Tensor], run: _Run, seconds: float
) -> Manifest:
    """Commits tensors, which are in the model."""
    workspace = run.workspace
    finite = are_finite(tensors.values())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / EXPERT_FILE
        if finite:
            write_tensors(path, tensors, about={"task": spec.task, "id": spec.id})
        return workspace.artifacts.commit(
            "expert",
            spec.id,
            version=VERSIONS["expert"],
            spec=spec_to_json(spec),
            inputs=_inputs(spec, workspace=workspace),
            files={EXPERT_FILE: path} if finite else {},
            outcome="diverged" if run.diverged or not finite else "done",
            metrics=_metrics(run, finite=finite).to_json(),
            seconds={"trial": seconds},
        )


def _inputs(spec: ExpertSpec, *, workspace: Workspace) -> dict[str, str]:
    consumed = {"base": spec.base_id, "data": spec.data_id, "head": spec.head_id}
    return {each: workspace.manifest(kind, each).digest for kind, each in consumed.items() if each}


def _metrics(run: _Run, *, finite: bool) -> ExpertMetrics:
    """Evaluates the expert, and the base under the expert's head, if the weights are finite."""
    tuning = run.tuning
    if not finite:
        return ExpertMetrics(training=training_metrics(tuning), test=None, base=None)
    split = run.workspace.split(run.spec.longest.data_id, "test")
    expert = evaluate(
        tuning.backbone.model,
        tuning.head,
        split=split,
        normalization=tuning.backbone.normalization,
        device=tuning.device,
    )
    base = evaluate_head(tuning.head, features=run.base_features, labels=split.labels)
    return ExpertMetrics(training=training_metrics(tuning), test=expert, base=base)

"""Runs one trial: fine-tunes on a task and commits an expert at each snapshot."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.evaluate import evaluate, evaluate_head
from workers.checkpoints import Checkpoints, Pace
from workers.determinism import compute_deterministically
from workers.fine_tune import DivergedError, FineTuning, create_head, loss_curve, recent_loss
from workers.manifests import Manifest
from workers.specs import VERSIONS, ExpertSpec, TrialSpec, spec_to_json
from workers.tensor_files import write_tensors
from workers.tuning_state import model_tensors
from workers.workspace import EXPERT_FILE, Workspace

CHECKPOINT_EVERY_S = 30.0
"""Least time between two checkpoints of a trial where no study says another."""
NUM_LISTINGS = 3
"""How often a trial looks for a checkpoint that a rival keeps replacing."""
NO_SCORES: dict[str, Any] = {"test": None, "base": None}
"""What an expert whose weights are not finite scores."""


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
class _Run:
    spec: TrialSpec
    tuning: FineTuning
    base_features: Tensor
    """(test images, features) of the base."""
    workspace: Workspace
    checkpoints: Checkpoints
    clock: Callable[[], float]
    started_s: float
    """When the trial would have begun if it had never been interrupted, by the clock."""
    diverged: bool = False

    def seconds(self) -> float:
        return self.clock() - self.started_s


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
        checkpoint_every_s: Least seconds between two checkpoints; see `workers.checkpoints.Pace`.
        clock: Seconds, from any origin.

    Raises:
        MissingArtifactError: The base or the images are not committed.
        StoreError: The store fails, other than in writing or removing a checkpoint.
        ManifestError, CorruptArtifactError: What the store has committed is damaged.
    """
    run = _start(spec, workspace=workspace, clock=clock)
    committed = _resume(run)
    pace = Pace(min_interval_s=checkpoint_every_s, clock=clock)
    try:
        for expert in spec.experts:
            yield from _train(run, until=expert.steps, report_every_s=report_every_s, pace=pace)
            manifest = committed.get(expert.id) or _commit(expert, run=run)
            if expert == spec.longest:
                run.checkpoints.remove()
            yield TrialProgress(
                step=expert.steps,
                loss=recent_loss(run.tuning.losses[: expert.steps]),
                committed=(manifest,),
            )
            run.tuning.set_training_mode()
    except GeneratorExit:
        if 0 < run.tuning.step < spec.longest.steps and not run.diverged:
            run.checkpoints.write(run.tuning, seconds=run.seconds())
        raise


def _start(spec: TrialSpec, *, workspace: Workspace, clock: Callable[[], float]) -> _Run:
    started_s = clock()
    longest = spec.longest
    compute_deterministically()
    base_features = workspace.base_features(longest.base_id, longest.data_id)
    backbone = workspace.base_backbone(longest.base_id)
    head = create_head(
        backbone.num_features,
        num_classes=workspace.num_classes(longest.data_id),
        seed=longest.seed,
        task=longest.task,
    )
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


def _resume(run: _Run) -> dict[str, Manifest]:
    """Goes to the last usable checkpoint; returns the experts that are known to be committed.

    A checkpoint beyond a snapshot that is not committed is of no use to this trial. A rival (a
    worker that was thought dead) may replace a checkpoint between its listing and its reading: as
    long as a listing gives nothing but shows something new, there is another, thrice at most.
    """
    committed: list[Manifest] = []
    for _ in range(NUM_LISTINGS):
        if run.tuning.step > 0 or not run.checkpoints.look():
            break
        committed = _committed_before(run.checkpoints.last_step, run=run)
        limit = run.spec.experts[len(committed)].steps
        run.started_s -= run.checkpoints.restore(run.tuning, max_step=limit)
    return {manifest.id: manifest for manifest in committed}


def _committed_before(step: int, *, run: _Run) -> list[Manifest]:
    """Returns the first experts as far as they are committed, up to a step and without the last."""
    found = []
    for expert in run.spec.experts[:-1]:
        manifest = (
            run.workspace.artifacts.find("expert", expert.id) if expert.steps < step else None
        )
        if manifest is None:
            break
        found.append(manifest)
    return found


def _train(run: _Run, *, until: int, report_every_s: float, pace: Pace) -> Iterator[TrialProgress]:
    """Takes steps up to a count unless the run diverges; nothing if it is there or beyond."""
    tuning = run.tuning
    reported_s = run.clock()
    while tuning.step < until and not run.diverged:
        try:
            tuning.advance()
        except DivergedError:
            run.diverged = True
            break
        if pace.is_due(tuning):
            pace.spend(lambda: run.checkpoints.write(tuning, seconds=run.seconds()))
        if run.clock() - reported_s > report_every_s and tuning.step < until:
            yield TrialProgress(step=tuning.step, loss=recent_loss(tuning.losses), committed=())
            reported_s = run.clock()


def _commit(spec: ExpertSpec, *, run: _Run) -> Manifest:
    tuning, workspace = run.tuning, run.workspace
    seconds = run.seconds()
    tensors = model_tensors(tuning.backbone.module, tuning.head)
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / EXPERT_FILE
        if finite:
            write_tensors(path, tensors, about={"task": spec.task, "id": spec.id})
        manifest = workspace.artifacts.commit(
            "expert",
            spec.id,
            version=VERSIONS["expert"],
            spec=spec_to_json(spec),
            inputs={
                spec.base_id: workspace.manifest("base", spec.base_id).digest,
                spec.data_id: workspace.manifest("data", spec.data_id).digest,
            },
            files={EXPERT_FILE: path} if finite else {},
            outcome="diverged" if run.diverged or not finite else "done",
            metrics={**_losses(tuning), **(_scores(run) if finite else NO_SCORES)},
            seconds={"trial": seconds},
        )
    workspace.remember(manifest)
    return manifest


def _losses(tuning: FineTuning) -> dict[str, Any]:
    return {
        "train_loss": recent_loss(tuning.losses),
        "train_curve": [list(point) for point in loss_curve(tuning.losses)],
        "num_classes": tuning.head.out_features,
        "steps_taken": tuning.step,
    }


def _scores(run: _Run) -> dict[str, Any]:
    """Scores the expert, and the base under the expert's head: what merging has to beat."""
    tuning = run.tuning
    split = run.workspace.split(tuning.spec.data_id, "test")
    expert = evaluate(
        tuning.backbone.module,
        tuning.head,
        split=split,
        normalization=tuning.backbone.normalization,
        device=tuning.device,
    )
    base = evaluate_head(tuning.head, features=run.base_features, labels=split.labels)
    return {"test": expert.to_json(), "base": base.to_json()}

"""Runs one trial: fine-tunes on a task and commits an expert at each snapshot."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eval.evaluate import evaluate, evaluate_head
from workers.determinism import compute_deterministically
from workers.fine_tune import DivergedError, FineTuning, create_head, loss_curve, recent_loss
from workers.manifests import Manifest
from workers.specs import VERSIONS, ExpertSpec, TrialSpec, spec_to_json
from workers.tensor_files import write_tensors
from workers.workspace import BACKBONE_PREFIX, EXPERT_FILE, HEAD_PREFIX, Workspace

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


@dataclass(frozen=True, kw_only=True)
class _Run:
    tuning: FineTuning
    base_features: Tensor
    """(test images, features) of the base."""
    workspace: Workspace


def run_trial(
    spec: TrialSpec,
    *,
    workspace: Workspace,
    report_every_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[TrialProgress]:
    """Fine-tunes, yielding at an interval and at every snapshot; the last yield is the end.

    A training loss that is not finite ends the run: the snapshots that were not reached are
    committed as `diverged`, with the last weights if those are finite and without if they are not.
    """
    started = reported = clock()
    run = _start(spec.longest, workspace=workspace)
    tuning = run.tuning
    diverged = False
    for expert in spec.experts:
        while tuning.step < expert.steps and not diverged:
            try:
                tuning.advance()
            except DivergedError:
                diverged = True
            if clock() - reported > report_every_s and tuning.step < expert.steps:
                yield TrialProgress(step=tuning.step, loss=recent_loss(tuning.losses), committed=())
                reported = clock()
        manifest = _commit(expert, run=run, diverged=diverged, seconds=clock() - started)
        yield TrialProgress(
            step=expert.steps, loss=recent_loss(tuning.losses), committed=(manifest,)
        )
        reported = clock()
        tuning.set_training_mode()


def _start(spec: ExpertSpec, *, workspace: Workspace) -> _Run:
    compute_deterministically()
    base_features = workspace.base_features(spec.base_id, spec.data_id)
    backbone = workspace.base_backbone(spec.base_id)
    head = create_head(
        backbone.num_features,
        num_classes=workspace.num_classes(spec.data_id),
        seed=spec.seed,
        task=spec.task,
    )
    tuning = FineTuning(
        spec=spec,
        backbone=backbone,
        head=head.to(workspace.device),
        train=workspace.split(spec.data_id, "train"),
        device=workspace.device,
    )
    return _Run(tuning=tuning, base_features=base_features, workspace=workspace)


def _commit(spec: ExpertSpec, *, run: _Run, diverged: bool, seconds: float) -> Manifest:
    tuning, workspace = run.tuning, run.workspace
    tensors = _expert_tensors(tuning.backbone.module, tuning.head)
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
            outcome="diverged" if diverged or not finite else "done",
            metrics={**_losses(tuning), **(_scores(run) if finite else NO_SCORES)},
            seconds={"trial": seconds},
        )
    workspace.remember(manifest)
    return manifest


def _expert_tensors(backbone: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    return {
        **{BACKBONE_PREFIX + name: tensor for name, tensor in backbone.state_dict().items()},
        **{HEAD_PREFIX + name: tensor for name, tensor in head.state_dict().items()},
    }


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

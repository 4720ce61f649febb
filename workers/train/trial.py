"""Runs a trial: fine-tunes a base on one task and commits an expert at each snapshot."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from eval.evaluate import evaluate, evaluate_head
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics
from workers.artifacts.provenance import Provenance
from workers.models.backbones import Backbone
from workers.models.lora.adapter import Adapter
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE
from workers.models.lora.injected import AdaptedBackbone, adapted_backbone
from workers.models.pretrained_weights import WeightsError
from workers.models.tensor_files import write_tensors
from workers.models.tied_weights import load_state, own_state
from workers.sampling.determinism import compute_deterministically
from workers.specs.expert import ExpertSpec
from workers.specs.training import TrialSpec
from workers.store.scratch import scratch_directory
from workers.train.given import commit_given, expert_inputs
from workers.train.memory_share import WHOLE_BATCHES, MemoryShare
from workers.train.resumable import ResumableTraining, Snapshot, Timing, TrainingProgress
from workers.train.trainer import Trainer, create_head
from workers.train.trainer_state import are_finite, model_tensors
from workers.workspace import EXPERT_FILE, Workspace


@dataclass(frozen=True, kw_only=True)
class _StartedTrial:
    """A trial with its model, ready for the first step."""

    spec: TrialSpec
    trainer: Trainer
    base_features: Tensor
    """(images, features) of the base, of the images that the experts are evaluated on."""
    workspace: Workspace
    memory: MemoryShare
    adapted: AdaptedBackbone | None
    """The trainer's backbone if adapters are trained; None if the weights themselves are."""


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """The weights of an expert at a snapshot."""

    tensors: Mapping[str, Tensor]
    """Backbone and head, by the names of `model_tensors`."""
    backbone: Backbone
    """The backbone that has these weights now."""
    adapter: Adapter | None = None
    """The trained adapter, if the weights are the sum of the base and its product."""


def run_trial(
    spec: TrialSpec,
    *,
    workspace: Workspace,
    timing: Timing,
    memory: MemoryShare = WHOLE_BATCHES,
) -> Iterator[TrainingProgress]:
    """Fine-tunes; yields at an interval and at every snapshot. The last yield is the end.

    An interrupted trial resumes from its last checkpoint, on this or any other machine, and ends
    with the bits of an uninterrupted one. The `seconds` in its manifests leave the interruption
    out: the time after the checkpoint, and the time until the trial was started again.

    A trial whose generator is closed writes a checkpoint of its current step.

    An expert that is given as a file is not trained: see `workers.train.given`.

    A training loss that is not finite ends the training. The remaining snapshots are committed as
    `diverged`: with the last weights if these are finite, otherwise without weights.

    Args:
        spec: The trial.
        workspace: The process's store, models and images.
        timing: The intervals of reports and checkpoints.
        memory: How the trial is to fit its device.

    Raises:
        MissingArtifactError: The base, the images or the zero-shot head are not committed.
        WeightsError: The zero-shot head does not fit the backbone, a given file is unfit, the node
            lacks peft, or no layer can have an adapter.
        StoreError: The store fails, except while a checkpoint is written or removed.
        ManifestError, CorruptArtifactError: A committed artifact is damaged.
    """
    if (given := spec.longest.given) is not None:
        yield from commit_given(spec.longest, given, workspace=workspace, timing=timing)
        return
    started_s = timing.clock()
    trial = _start(spec, workspace=workspace, memory=memory)
    training = ResumableTraining(
        spec=spec,
        trainer=trial.trainer,
        artifacts=workspace.artifacts,
        timing=timing,
        started_s=started_s,
    )
    yield from training.run(lambda expert, at: _commit(expert, at=at, trial=trial))


def _start(spec: TrialSpec, *, workspace: Workspace, memory: MemoryShare) -> _StartedTrial:
    longest = spec.longest
    compute_deterministically()
    base_features = workspace.base_features(
        longest.base_id, longest.data_id, split=longest.evaluate_on
    )
    probe = None if longest.hyperparameters.head == "trained" else workspace.linear_probe(longest)
    linearised = longest.hyperparameters.linearised
    backbone = workspace.base_backbone(longest.base_id, linearised=linearised)
    head = probe or _head(longest, backbone=backbone, workspace=workspace)
    adapted = None
    if longest.hyperparameters.trains_adapters:
        adapted = adapted_backbone(backbone, longest.hyperparameters, device=workspace.device)
    trainer = Trainer(
        spec=longest,
        backbone=adapted.backbone if adapted else backbone,
        head=head.to(workspace.device),
        train=workspace.split(longest.data_id, "train"),
        device=workspace.device,
        micro_batch=memory.micro_batch,
    )
    return _StartedTrial(
        spec=spec,
        trainer=trainer,
        base_features=base_features,
        workspace=workspace,
        memory=memory,
        adapted=adapted,
    )


def _head(spec: ExpertSpec, *, backbone: Backbone, workspace: Workspace) -> nn.Linear:
    if spec.head_id is None:
        return create_head(
            backbone.num_features,
            num_classes=workspace.num_classes(spec.data_id),
            seed=spec.hyperparameters.seed,
            task=spec.task,
        )
    head = workspace.zero_shot_head(spec.head_id)
    if head.in_features != backbone.num_features:
        raise WeightsError(
            f"the zero-shot head of {spec.task} needs embeddings of width {head.in_features}, but "
            f"the backbone has {backbone.num_features} features: use the backbone and the text "
            "tower of one CLIP model"
        )
    return head


def _commit(expert: ExpertSpec, *, at: Snapshot, trial: _StartedTrial) -> Manifest:
    trainer = trial.trainer
    with trainer.expert_weights() as tensors:
        if trial.adapted is None:
            found = _Weights(tensors=tensors, backbone=trainer.backbone)
        else:
            found = _dense(trial.adapted.adapter(), trial=trial)
        manifest = _commit_weights(expert, found, at=at, trial=trial)
    trial.workspace.remember(manifest)
    return manifest


def _dense(adapter: Adapter, *, trial: _StartedTrial) -> _Weights:
    """Loads base plus adapter into the process's backbone; returns its weights and the adapter."""
    backbone = trial.workspace.base_backbone(trial.spec.longest.base_id)
    load_state(backbone.module, adapter.merged(own_state(backbone.module)))
    tensors = model_tensors(backbone.module, trial.trainer.head)
    return _Weights(tensors=tensors, backbone=backbone, adapter=adapter)


def _commit_weights(
    expert: ExpertSpec, weights: _Weights, *, at: Snapshot, trial: _StartedTrial
) -> Manifest:
    """Commits the weights and their scores."""
    workspace = trial.workspace
    finite = are_finite(weights.tensors.values())
    with scratch_directory("expert") as scratch:
        files = _written(weights, expert=expert, scratch=scratch) if finite else {}
        return workspace.artifacts.commit(
            Provenance.of(expert, kind="expert", inputs=expert_inputs(expert, workspace=workspace)),
            files=files,
            outcome="diverged" if at.diverged or not finite else "done",
            metrics=_metrics(trial, backbone=weights.backbone if finite else None).to_json(),
            seconds={"trial": at.seconds},
            execution=trial.memory.execution(trial.trainer.least_micro_batch),
        )


def _written(weights: _Weights, *, expert: ExpertSpec, scratch: Path) -> dict[str, Path]:
    """Writes the files of an expert; returns their paths by name."""
    about = {"task": expert.task, "id": expert.id}
    files = {EXPERT_FILE: scratch / EXPERT_FILE}
    write_tensors(files[EXPERT_FILE], weights.tensors, about=about)
    if weights.adapter is not None:
        files |= {name: scratch / name for name in (ADAPTER_FILE, CONFIG_FILE)}
        write_tensors(files[ADAPTER_FILE], weights.adapter.tensors, about=about)
        files[CONFIG_FILE].write_bytes(weights.adapter.config_json())
    return files


def _metrics(trial: _StartedTrial, *, backbone: Backbone | None) -> ExpertMetrics:
    """Evaluates the expert, and the base under the expert's head.

    Args:
        trial: The trial.
        backbone: The backbone with the expert's weights; None if these are not finite.
    """
    trainer = trial.trainer
    if backbone is None:
        return ExpertMetrics(training=trainer.metrics(), test=None, base=None)
    evaluate_on = trial.spec.longest.evaluate_on
    split = trial.workspace.split(trial.spec.longest.data_id, evaluate_on)
    expert = evaluate(
        backbone.model,
        trainer.head,
        split=split,
        normalization=backbone.normalization,
        device=trainer.device,
    )
    base = evaluate_head(trainer.head, features=trial.base_features, labels=split.labels)
    return ExpertMetrics.of(expert, base, training=trainer.metrics(), evaluate_on=evaluate_on)

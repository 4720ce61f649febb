"""Commits an expert that was trained elsewhere: its weights from a file, its head made here."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import nn

from eval.digests import sha256_of_file
from eval.evaluate import evaluate, evaluate_head, features_of
from workers.artifacts.metrics import ExpertMetrics, TrainingMetrics
from workers.artifacts.provenance import Provenance
from workers.models.backbones import Backbone
from workers.models.fitted_weights import FittedWeights, fit_source
from workers.models.heads import classifier_of
from workers.models.linear_probe import fit_probe
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE
from workers.models.lora.reading import check_adapter, read_adapter
from workers.models.pretrained_weights import WeightsError
from workers.models.tensor_files import write_tensors
from workers.models.tied_weights import load_state
from workers.sampling.determinism import compute_deterministically
from workers.specs.expert import ExpertSpec, GivenWeights
from workers.store.scratch import scratch_directory
from workers.train.resumable import Timing, TrainingProgress
from workers.train.trainer_state import model_tensors
from workers.workspace import EXPERT_FILE, PROBE_IMAGES_AT_ONCE, Workspace

_log = logging.getLogger(__name__)


def commit_given(
    expert: ExpertSpec, given: GivenWeights, *, workspace: Workspace, timing: Timing
) -> Iterator[TrainingProgress]:
    """Copies an expert's weights from its file to the store, with a head and its scores.

    Nothing is trained but the head. A job that is killed begins again, and ends with the same bits.

    Yields:
        One report, of step 0, with the expert's manifest.

    Raises:
        WeightsError: The file cannot be read, has another digest than the plan, does not fit the
            base's model, or lacks the classifier that it should have.
        MissingArtifactError: The base, the images or the zero-shot head are not committed.
    """
    started_s = timing.clock()
    compute_deterministically()
    base_features = workspace.base_features(expert.base_id, expert.data_id)
    if given.config_sha256 is None:
        fitted = _read(expert, given, workspace=workspace)
    else:
        fitted = _read_adapter(expert, given, workspace=workspace)
    backbone = workspace.base_backbone(expert.base_id)
    load_state(backbone.module, fitted.tensors)
    head = _head(expert, given, fitted=fitted, backbone=backbone, workspace=workspace)
    head = head.to(workspace.device)
    split = workspace.split(expert.data_id, "test")
    metrics = ExpertMetrics(
        training=TrainingMetrics(
            train_loss=None, train_curve=(), num_classes=head.out_features, steps_taken=0
        ),
        test=evaluate(
            backbone.model,
            head,
            split=split,
            normalization=backbone.normalization,
            device=workspace.device,
        ),
        base=evaluate_head(head, features=base_features, labels=split.labels),
    )
    with scratch_directory("expert") as scratch:
        path = scratch / EXPERT_FILE
        tensors = model_tensors(backbone.module, head)
        write_tensors(path, tensors, about={"task": expert.task, "id": expert.id})
        manifest = workspace.artifacts.commit(
            Provenance.of(expert, kind="expert", inputs=expert_inputs(expert, workspace=workspace)),
            files={EXPERT_FILE: path},
            metrics=metrics.to_json(),
            seconds={"trial": timing.clock() - started_s},
        )
    workspace.remember(manifest)
    yield TrainingProgress(step=0, loss=None, committed=(manifest,))


def _read(expert: ExpertSpec, given: GivenWeights, *, workspace: Workspace) -> FittedWeights:
    if given.path is None:
        raise WeightsError(
            f"the plan does not say where the weights of {expert.task} lie; give their file"
        )
    base = workspace.manifest("base", expert.base_id).spec
    fitted = fit_source(
        given.path,
        sha256=given.sha256,
        model=str(base["model"]),
        image_size=cast("int | None", base.get("image_size")),
    )
    for remark in fitted.remarks:
        _log.info(remark)
    return fitted


def _read_adapter(
    expert: ExpertSpec, given: GivenWeights, *, workspace: Workspace
) -> FittedWeights:
    """Returns the base's tensors with the adapter of a folder added."""
    if given.path is None:
        raise WeightsError(
            f"the plan does not say where the adapter of {expert.task} lies; give its folder"
        )
    folder = Path(given.path)
    for name, expected in ((ADAPTER_FILE, given.sha256), (CONFIG_FILE, given.config_sha256)):
        try:
            digest = sha256_of_file(folder / name)
        except OSError as error:
            reason = error.strerror or error
            raise WeightsError(f"{folder / name}: cannot be read: {reason}") from error
        if digest != expected:
            raise WeightsError(
                f"{folder / name}: sha256 is {digest}, the plan expects sha256:{expected}"
            )
    adapter, base = read_adapter(folder), workspace.base_tensors(expert.base_id)
    check_adapter(adapter, base=base, shown=given.path)
    return FittedWeights(tensors=adapter.merged(base), classifier={}, remarks=())


def _head(
    expert: ExpertSpec,
    given: GivenWeights,
    *,
    fitted: FittedWeights,
    backbone: Backbone,
    workspace: Workspace,
) -> nn.Linear:
    """Returns the zero-shot head, the file's classifier, or the probe of the expert's features."""
    if expert.head_id is not None:
        return workspace.zero_shot_head(expert.head_id)
    num_classes = workspace.num_classes(expert.data_id)
    if given.head == "file":
        return classifier_of(
            fitted,
            num_classes=num_classes,
            num_features=backbone.num_features,
            shown=str(given.path),
        )
    train = workspace.split(expert.data_id, "train")
    features = [
        features_of(
            backbone.model,
            split=train.rows(start, min(start + PROBE_IMAGES_AT_ONCE, len(train))),
            normalization=backbone.normalization,
            device=workspace.device,
        )
        for start in range(0, len(train), PROBE_IMAGES_AT_ONCE)
    ]
    return fit_probe(
        torch.cat(features),
        labels=train.labels,
        num_classes=num_classes,
        l2=expert.constants.probe_l2,
    )


def expert_inputs(expert: ExpertSpec, *, workspace: Workspace) -> dict[str, str]:
    """Returns the digests of the artifacts that an expert is made from, by id."""
    consumed = {"base": expert.base_id, "data": expert.data_id, "head": expert.head_id}
    return {each: workspace.manifest(kind, each).digest for kind, each in consumed.items() if each}

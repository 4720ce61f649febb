"""Commits a base: the pretrained or random weights that trials start from."""

import logging
import time

import timm
import torch
from torch import Tensor

from workers.artifacts.manifests import Manifest
from workers.artifacts.provenance import Provenance
from workers.models.backbones import create_backbone, embedding_width
from workers.models.fitted_weights import fit_source
from workers.models.pretrained_weights import WeightsError, packaged_path
from workers.models.resized_weights import resize_weights
from workers.models.tensor_files import write_tensors
from workers.models.tied_weights import own_state
from workers.specs.bases import BaseJob
from workers.store.scratch import scratch_directory
from workers.workspace import BASE_FILE, Workspace

_log = logging.getLogger(__name__)


def prepare_base(job: BaseJob, *, workspace: Workspace) -> Manifest:
    """Commits the base's backbone as a safetensors file.

    Raises:
        WeightsError: The weights cannot be obtained or do not fit the model.
    """
    started = time.monotonic()
    spec = job.spec
    tensors = _base_tensors(job)
    with scratch_directory("base") as scratch:
        path = scratch / BASE_FILE
        write_tensors(path, tensors, about={"model": spec.model, "id": spec.id})
        return workspace.artifacts.commit(
            Provenance.of(spec, kind="base", inputs={}),
            files={BASE_FILE: path},
            metrics={"num_entries": sum(tensor.numel() for tensor in tensors.values())},
            seconds={"prepare": time.monotonic() - started},
        )


def _base_tensors(job: BaseJob) -> dict[str, Tensor]:
    spec = job.spec
    if spec.weights == "none":
        device = torch.device("cpu")
        module = create_backbone(
            spec.model, seed=spec.seed, device=device, image_size=spec.image_size
        ).module
        return own_state(module)
    if spec.weights == "timm":
        tensors = _hub_tensors(spec.model)
        if spec.image_size is None:
            return tensors
        return resize_weights(tensors, model=spec.model, image_size=spec.image_size)
    fitted = fit_source(
        job.path or str(packaged_path(spec.model)),
        sha256=spec.weights.removeprefix("sha256:"),
        model=spec.model,
        image_size=spec.image_size,
    )
    for remark in fitted.remarks:
        _log.info(remark)
    return dict(fitted.tensors)


def _hub_tensors(model: str) -> dict[str, Tensor]:
    width = embedding_width(model)
    try:
        module = timm.create_model(model, pretrained=True, num_classes=width)
    except Exception as error:
        raise WeightsError(
            f"{model}: timm's hub returned no weights ({error}); set backbone.weights to a file"
        ) from error
    return own_state(module)

"""Makes what trials need before they start: the base's weights and the tasks' images."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from eval.embedded.build import compose_splits
from eval.image_source import ImageSource
from eval.tasks import find_task
from workers.backbones import check_model, create_backbone, read_checkpoint
from workers.manifests import Manifest
from workers.preparation import Preparation
from workers.specs import VERSIONS, BaseJob, DataSpec, spec_to_json
from workers.tensor_files import write_tensors
from workers.weights import WeightsError, packaged_path, sha256_of
from workers.workspace import BASE_FILE, Workspace


def prepare_base(job: BaseJob, *, workspace: Workspace) -> Manifest:
    """Commits the base's backbone as safetensors.

    Raises:
        WeightsError: The weights cannot be had or do not fit the model.
    """
    started = time.monotonic()
    spec = job.spec
    tensors = _base_tensors(job)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / BASE_FILE
        write_tensors(path, tensors, about={"model": spec.model, "id": spec.id})
        return workspace.artifacts.commit(
            "base",
            spec.id,
            version=VERSIONS["base"],
            spec=spec_to_json(spec),
            inputs={},
            files={BASE_FILE: path},
            outcome="done",
            metrics={"num_entries": sum(tensor.numel() for tensor in tensors.values())},
            seconds={"prepare": time.monotonic() - started},
        )


def _base_tensors(job: BaseJob) -> dict[str, Tensor]:
    spec = job.spec
    if spec.weights == "none":
        device = torch.device("cpu")
        module = create_backbone(spec.model, seed=spec.seed, device=device).module
        return dict(module.state_dict())
    if spec.weights == "timm":
        return _hub_tensors(spec.model)
    path = Path(job.path) if job.path else packaged_path(spec.model)
    digest = sha256_of(path)
    if spec.weights != f"sha256:{digest}":
        raise WeightsError(f"{path}: sha256 is {digest}, the plan expects {spec.weights}")
    return read_checkpoint(path, model=spec.model)


def _hub_tensors(model: str) -> dict[str, Tensor]:
    check_model(model)
    try:
        module = timm.create_model(model, pretrained=True, num_classes=0)
    except Exception as error:
        raise WeightsError(
            f"{model}: timm's hub gave no weights ({error}); set backbone.weights to a file"
        ) from error
    return dict(module.state_dict())


def prepare_data(spec: DataSpec, *, workspace: Workspace) -> Manifest:
    """Commits a task's images as Arrow files: decoded and resized once, mapped ever after.

    Raises:
        ImageSourceError: An image cannot be decoded; running again goes on where it stopped.
    """
    *_, last = data_preparation(spec, workspace=workspace).run()
    assert last.committed is not None
    return last.committed


def data_preparation(spec: DataSpec, *, workspace: Workspace) -> Preparation:
    """Returns the preparation of a task's images on this process's share of the machine."""
    return Preparation(
        spec,
        task=find_task(spec.task),
        sources=open_sources(spec),
        artifacts=workspace.artifacts,
        num_threads=torch.get_num_threads(),
    )


def open_sources(spec: DataSpec) -> Mapping[str, ImageSource]:
    """Returns what a task's `train` and `test` images are read from."""
    return compose_splits(spec.task)

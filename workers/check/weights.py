"""Checks that weights for a model exist in timm's hub, and that timm can interpolate them."""

from pathlib import Path

import torch
from torch import nn

from workers.check.building import RefusedError, build, build_for, config_of, own_size, refused
from workers.check.report import Fault, FileUse, ModelReport, ModelUse
from workers.models.backbones import embedding_width
from workers.models.fitted_weights import fit_weights
from workers.models.heads import classifier_of
from workers.models.lora.files import adapter_folder
from workers.models.lora.reading import check_adapter, read_adapter
from workers.models.pretrained_weights import WeightsError
from workers.models.resized_weights import resize_weights
from workers.models.tied_weights import own_state


def hub_fault(use: ModelUse) -> Fault | None:
    """Returns the fault of a model without weights in timm's hub; None if it has some."""
    config = config_of(use.model)
    if "timm" not in use.weights or (config is not None and config.has_weights):
        return None
    return Fault(
        kind="hub",
        fault=f"timm's hub has no weights of {use.model}",
        remedy="use the path of a checkpoint file, or none for random weights",
    )


def check_file(use: FileUse) -> ModelReport:
    """Checks whether a checkpoint, or an adapter in a folder, is the model's."""
    if (folder := adapter_folder(Path(use.path))) is not None:
        return _check_adapter(use, folder=folder)
    is_resized = _is_resized(use)
    image_size = use.image_size if is_resized else None
    try:
        fitted = fit_weights(Path(use.path), model=use.model, image_size=image_size)
        if use.num_classes is not None:
            width = embedding_width(use.model) or None
            classifier_of(fitted, num_classes=use.num_classes, num_features=width, shown=use.path)
    except WeightsError as error:
        fault, is_told, remedy = str(error).rpartition("; ")
        if not is_told:
            fault, remedy = str(error), f"use a checkpoint of {use.model}"
        return ModelReport(faults=(Fault(kind="file", fault=fault, remedy=remedy),))
    try:
        if is_resized:
            resize_weights(fitted.tensors, model=use.model, image_size=use.image_size)
    except WeightsError as error:
        return ModelReport(faults=(_resizing_fault(error, model=use.model),))
    return ModelReport(remarks=fitted.remarks)


def _check_adapter(use: FileUse, *, folder: Path) -> ModelReport:
    image_size = use.image_size if _is_resized(use) else None
    try:
        backbone = build(use.model, device=torch.device("meta"), image_size=image_size)
        check_adapter(read_adapter(folder), base=own_state(backbone.module), shown=use.path)
    except RefusedError:
        return ModelReport()  # the report on the model has the reason
    except WeightsError as error:
        fault, is_told, remedy = str(error).rpartition("; ")
        if not is_told:
            fault, remedy = str(error), f"use an adapter of {use.model}"
        return ModelReport(faults=(Fault(kind="file", fault=fault, remedy=remedy),))
    return ModelReport()


def _is_resized(use: FileUse) -> bool:
    """Returns whether the study's model is built for its images, not for the model's own size."""
    try:
        device = torch.device("meta")
        return build_for(use.model, image_size=use.image_size, device=device).is_resized
    except RefusedError:  # the report on the model has the reason
        return False


def resizing_fault(use: ModelUse, *, device: torch.device) -> Fault | None:
    """Returns the fault of weights at the own size that timm cannot interpolate; None if it can."""
    if set(use.weights) <= {"none"}:
        return None
    try:
        _check_resizing(use, device=device)
    except (RefusedError, WeightsError) as error:
        return _resizing_fault(error, model=use.model)
    return None


def _resizing_fault(error: Exception, *, model: str) -> Fault:
    return Fault(
        kind="resizing",
        fault=str(refused(error)),
        remedy=f"its own size is {own_size(model)}; other sizes need weights: none, or a "
        "checkpoint that was trained at that size",
    )


def _check_resizing(use: ModelUse, *, device: torch.device) -> None:
    """Interpolates noise twice: weights that are the same both times do not come from it.

    Raises:
        RefusedError, WeightsError: timm cannot interpolate the weights.
    """
    module = build(use.model, device=device).module
    if device.type == "meta":
        with device:
            resize_weights(own_state(module), model=use.model, image_size=use.image_size)
        return
    first, second = (_resized_noise(module, use=use, seed=seed) for seed in (1, 2))
    trained = {name for name, _ in module.named_parameters()}
    lost = [name for name in trained if torch.equal(first[name], second[name])]
    if lost:
        raise RefusedError(
            f"timm does not interpolate {min(lost)} of {use.model} to {use.image_size} pixels"
        )


def _resized_noise(module: nn.Module, *, use: ModelUse, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = {
        name: torch.rand(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in own_state(module).items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resize_weights(noise, model=use.model, image_size=use.image_size)

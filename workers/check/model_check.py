"""Checks whether a study can use a model: its name, its image size, its steps, its weights."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from workers.check.building import (
    Built,
    RefusedError,
    build,
    build_for,
    own_size,
    run,
    sizes_near,
)
from workers.check.names import name_fault
from workers.check.report import MAX_CHECKED_IMAGES, Fault, ModelReport, ModelUse, StepKind
from workers.check.sizes import measured
from workers.check.training import store_and_merge, take_step
from workers.models.backbones import Backbone
from workers.models.model_sizes import ModelSize

MAX_FLOPS = 5e10
"""Operations of a forward pass of one image up to which a model really runs, which takes seconds.
Larger models run on torch's meta device, which only follows shapes."""
MAX_STATE_BYTES = 1 << 30
"""The same for the size of the weights; the check holds several copies."""
META, CPU = torch.device("meta"), torch.device("cpu")


def check_model(use: ModelUse) -> ModelReport:
    """Checks a use of a model on the CPU, with random weights and images."""
    fault = name_fault(use.model)
    if fault is not None:
        return ModelReport(faults=(fault,))
    try:
        size = _size(use)
        device = _device(size, use=use)
        plain = build(use.model, device=device)
    except RefusedError as error:
        fault = Fault(
            kind="model",
            fault=f"timm cannot build {use.model}: {error}",
            remedy="use another model",
        )
        return ModelReport(faults=(fault,))
    try:
        built = build_for(use.model, image_size=use.image_size, device=device, plain=plain)
    except RefusedError as error:
        fault = _size_fault(use, plain=plain, device=device, why=str(error))
        return ModelReport(size=size, faults=(fault,))
    if built.is_fitted:
        size = measured(
            build(use.model, device=META, image_size=use.image_size), image_size=use.image_size
        )
    faults = tuple(_faults(use, built=built, device=device))
    return ModelReport(size=size, is_fitted=built.is_fitted, faults=faults)


def _size(use: ModelUse) -> ModelSize:
    try:
        backbone = build(use.model, device=META)
    except RefusedError:
        backbone = build(use.model, device=CPU)
    return measured(backbone, image_size=own_size(use.model))


def _device(size: ModelSize, *, use: ModelUse) -> torch.device:
    flops = (size.flops_per_pixel or 0.0) * use.image_size**2
    return META if flops > MAX_FLOPS or size.state_bytes > MAX_STATE_BYTES else CPU


def _size_fault(use: ModelUse, *, plain: Backbone, device: torch.device, why: str) -> Fault:
    own = own_size(use.model)
    try:
        run(plain, image_size=own, device=device)
    except RefusedError as error:
        return Fault(
            kind="model",
            fault=f"{use.model} fails even at its own size of {own} pixels: {error}",
            remedy="use another model",
        )
    sizes = sizes_near(plain, model=use.model, image_size=use.image_size, device=device)
    others = [str(size) for size in sizes if size != own]
    also = f"; it also takes {', '.join(others)}" if others else ""
    return Fault(
        kind="image_size",
        fault=f"{use.model} takes no images of {use.image_size} pixels ({why})",
        remedy=f"the model's own size is {own}{also}",
    )


def _faults(use: ModelUse, *, built: Built, device: torch.device) -> Iterator[Fault]:
    for step in use.steps:
        try:
            take_step(built.backbone, step=step, image_size=use.image_size, device=device)
        except RefusedError as error:
            yield _step_fault(use, step=step, built=built, device=device, why=str(error))
    if device == CPU:
        try:
            store_and_merge(built.backbone)
        except RefusedError as error:
            yield Fault(
                kind="model",
                fault=f"the weights of {use.model} cannot be stored and merged: {error}",
                remedy="use another model",
            )


def _step_fault(
    use: ModelUse, *, step: StepKind, built: Built, device: torch.device, why: str
) -> Fault:
    """Returns the fault of a step that failed, by the nearest kind of step that works."""

    def works(other: StepKind) -> bool:
        try:
            take_step(built.backbone, step=other, image_size=use.image_size, device=device)
        except RefusedError:
            return False
        return True

    at = f"{use.model} at {use.image_size} pixels"
    if works(replace(step, batch_size=MAX_CHECKED_IMAGES)):
        return Fault(
            kind="batch_size",
            fault=f"{at} cannot be trained on one image at a time ({why})",
            remedy=f"expected {MAX_CHECKED_IMAGES} or more",
        )
    if step.linearised and works(replace(step, linearised=False)):
        return Fault(
            kind="linearised",
            fault=f"{use.model} cannot be linearised ({why})",
            remedy="leave this out, or use another model",
        )
    return Fault(
        kind="model",
        fault=f"{at} cannot be trained ({why})",
        remedy="use another model or image size",
    )

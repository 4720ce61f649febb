"""Checks whether a study can use a model: its name, its image size, its steps, its weights."""

import time
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
)
from workers.check.names import name_fault
from workers.check.report import MAX_CHECKED_IMAGES, Fault, ModelReport, ModelUse, StepKind
from workers.check.sizes import measured
from workers.check.training import store_and_merge, take_step
from workers.check.weights import hub_fault, resizing_fault
from workers.models.backbones import Backbone
from workers.models.memory_layout import unsafe_convolutions
from workers.models.model_sizes import ModelSize

MAX_FLOPS = 5e10
"""Operations of a forward pass of one image up to which a model really runs, which takes seconds.
Larger models run on torch's meta device, which only follows shapes."""
MAX_STATE_BYTES = 1 << 30
"""The same for the size of the weights; the check holds several copies."""
NUM_SIZES_SHOWN = 4
"""Sizes in a message."""
SEARCH_S = 10.0
"""The search for sizes ends after this time."""
_SIZES = sorted({*range(32, 513, 32), *range(28, 449, 28), 518, 640, 768, 896, 1024})
"""Sizes to try: multiples of the usual strides 8, 16 and 32, and of the patches and windows of 14
and 7."""
META, CPU = torch.device("meta"), torch.device("cpu")


def check_model(use: ModelUse) -> ModelReport:
    """Checks a use of a model on the CPU, with random weights and images."""
    fault = name_fault(use.model)
    if fault is not None:
        return ModelReport(faults=(fault,))
    report = _check_known(use)
    fault = hub_fault(use)
    return report if fault is None else replace(report, faults=(fault, *report.faults))


def _check_known(use: ModelUse) -> ModelReport:
    """Checks a use of a model that timm knows."""
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
        return _refuse_size(use, plain=plain, size=size, device=device, why=str(error))
    if built.is_resized:
        size = _size(use, image_size=use.image_size)
    faults = (
        *_faults(use, built=built, device=device),
        *_storing_faults(use, built=built, size=size),
    )
    return ModelReport(
        size=size, is_resized=built.is_resized, faults=faults, remarks=_remarks(use, built=built)
    )


def _remarks(use: ModelUse, *, built: Built) -> tuple[str, ...]:
    num_layers = len(unsafe_convolutions(built.backbone.module))
    if num_layers == 0:
        return ()
    remark = (
        f"{use.model}: on CPUs, its strided 1 x 1 convolutions of few input channels (number: "
        f"{num_layers}) keep torch's default memory layout; in the faster layout, oneDNN writes "
        "past a buffer"
    )
    return (remark,)


def _size(use: ModelUse, *, image_size: int | None = None) -> ModelSize:
    try:
        backbone = build(use.model, device=META, image_size=image_size)
    except RefusedError:
        backbone = build(use.model, device=CPU, image_size=image_size)
    return measured(backbone, image_size=image_size or own_size(use.model))


def _device(size: ModelSize, *, use: ModelUse) -> torch.device:
    flops = (size.flops_per_pixel or 0.0) * use.image_size**2
    return META if flops > MAX_FLOPS or size.state_bytes > MAX_STATE_BYTES else CPU


def _refuse_size(
    use: ModelUse, *, plain: Backbone, size: ModelSize, device: torch.device, why: str
) -> ModelReport:
    """Returns the report on a model that failed at the study's image size."""
    own = own_size(use.model)
    try:
        run(plain, image_size=own, device=device)
    except RefusedError as error:
        if device == META:  # not every model runs there
            return ModelReport(size=size, unchecked=f"{use.model} is too large to be tried here")
        fault = Fault(
            kind="model",
            fault=f"{use.model} fails even at its own size of {own} pixels: {error}",
            remedy="use another model",
        )
    else:
        sizes = _sizes_near(use, plain=plain, device=device)
        others = [str(each) for each in sizes if each != own]
        also = f"; it also takes {', '.join(others)}" if others else ""
        fault = Fault(
            kind="image_size",
            fault=f"{use.model} takes no images of {use.image_size} pixels ({why})",
            remedy=f"the model's own size is {own}{also}",
        )
    return ModelReport(size=size, faults=(fault,))


def _sizes_near(use: ModelUse, *, plain: Backbone, device: torch.device) -> list[int]:
    """Returns sizes that the study could use instead, ascending: the model's own and the nearest.

    Args:
        use: A use with an image size that the model does not take.
        plain: The model at its own size.
        device: The device of `plain`.
    """
    give_up_s = time.monotonic() + SEARCH_S
    found: list[int] = []
    may_resize = True
    nearest = sorted(_SIZES, key=lambda size: (abs(size - use.image_size), size))
    for size in (own_size(use.model), *nearest):
        if len(found) == NUM_SIZES_SHOWN or time.monotonic() > give_up_s:
            break
        try:
            if may_resize and _is_resized(use, size=size, plain=plain, device=device):
                # Interpolation works for all sizes or for none, apart from lucky ones.
                may_resize = resizing_fault(replace(use, image_size=size), device=device) is None
            if not may_resize:
                run(plain, image_size=size, device=device)
        except RefusedError:
            continue
        found.append(size)
    return sorted(set(found))


def _is_resized(use: ModelUse, *, size: int, plain: Backbone, device: torch.device) -> bool:
    return build_for(use.model, image_size=size, device=device, plain=plain).is_resized


def _faults(use: ModelUse, *, built: Built, device: torch.device) -> Iterator[Fault]:
    elsewhere = replace(use, weights=tuple(each for each in use.weights if each != "file"))
    if built.is_resized and (fault := resizing_fault(elsewhere, device=device)) is not None:
        yield fault
    for step in use.steps:
        try:
            take_step(built.backbone, step=step, image_size=use.image_size, device=device)
        except RefusedError as error:
            yield _step_fault(use, step=step, built=built, device=device, why=str(error))


def _storing_faults(use: ModelUse, *, built: Built, size: ModelSize) -> Iterator[Fault]:
    backbone = built.backbone
    if size.state_bytes > MAX_STATE_BYTES:
        return
    try:
        if next(backbone.module.parameters()).is_meta:
            image_size = use.image_size if built.is_resized else None
            backbone = build(use.model, device=CPU, image_size=image_size)
        store_and_merge(backbone)
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

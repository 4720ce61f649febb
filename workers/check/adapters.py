"""Checks that a model's layers can have LoRA adapters, and that the adapters do what they store."""

from typing import Any

import torch

from workers.check.building import RefusedError, build_for, refused
from workers.check.names import name_fault
from workers.check.report import AdapterUse, Fault, ModelReport
from workers.models.backbones import Backbone
from workers.models.lora.injected import PeftMissingError, adapted_backbone
from workers.models.lora.targets import TargetsError
from workers.models.tied_weights import load_state, own_state
from workers.specs.hyperparameters import Hyperparameters

RANK = 2
_TOLERANCE = 1e-3
"""The largest difference between features of an adapted model and of one with the dense weights, as
a fraction of the change by the adapters. Rounding gave at most 5e-6 in nine models; BEiT and EVA02,
which read the weights of attention past the adapter, gave 0.05 to 0.47."""
_CPU = torch.device("cpu")
_ANY_TRAINING: dict[str, Any] = {
    "steps": 1,
    "batch_size": 1,
    "lr": 0.0,
    "data_ratio": 1.0,
    "optimizer": "sgd",
    "seed": 0,
}


def check_adapters(use: AdapterUse) -> ModelReport:
    """Compares the features of adapted layers with those of the dense weights, on random images."""
    if name_fault(use.model) is not None:
        return ModelReport()  # the check of the model reports it
    try:
        backbone = build_for(use.model, image_size=use.image_size, device=_CPU).backbone
    except RefusedError:
        return ModelReport()  # as above
    try:
        deviation = _deviation(backbone, use=use)
    except PeftMissingError as error:
        return ModelReport(unchecked=str(error))
    except TargetsError as error:
        fault, remedy = str(error), "name layers of this model, or leave the field out"
    except Exception as error:  # noqa: BLE001 whatever the model's code raises
        fault = f"{use.model} fails with adapters in {use.targets!r} ({refused(error)})"
        remedy = "use other layers or another model"
    else:
        if deviation <= _TOLERANCE:
            return ModelReport()
        fault = (
            f"{use.model} does not compute with its layers {use.targets!r} as they are stored, so "
            "adapters would have another effect than their dense weights"
        )
        remedy = "use other layers or another model"
    return ModelReport(faults=(Fault(kind="adapters", fault=fault, remedy=remedy),))


def _deviation(backbone: Backbone, *, use: AdapterUse) -> float:
    """Returns the difference between adapters and dense weights, beside the adapters' effect."""
    point = Hyperparameters(**_ANY_TRAINING, lora_rank=RANK, lora_targets=use.targets)
    adapted = adapted_backbone(backbone, point, device=_CPU)
    adapter = adapted.adapter()
    for down, up in adapter.layers.values():
        up.normal_(std=float(down.std()))
    images = torch.randn(1, 3, use.image_size, use.image_size)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        base = backbone.model.eval()(images)
        found = adapted.backbone.model.eval()(images)
        load_state(backbone.module, adapter.merged(own_state(backbone.module)))
        dense = backbone.model(images)
    change = float((dense - base).norm())
    return float((found - dense).norm()) / change if change > 0 else float("inf")

"""Backbones: timm models without their classifier, and where their weights come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from eval.model_inputs import Normalization
from workers.seeds import derive_seed
from workers.weights import WeightsError


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A feature extractor and what its inputs and outputs look like."""

    module: nn.Module
    """(batch, 3, height, width) to (batch, num_features), channels-last in memory."""
    num_features: int
    normalization: Normalization


def create_backbone(model: str, *, seed: int, device: torch.device) -> Backbone:
    """Builds a timm model without its classifier, with random weights drawn from the seed.

    Raises:
        WeightsError: timm has no such model.
    """
    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model[:6]}*")[:5]) or "see timm.list_models()"
        raise WeightsError(f"timm has no model {model!r}; close: {near}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "backbone", model))
        module = timm.create_model(model, pretrained=False, num_classes=0)
    module = module.to(device).to(memory_format=torch.channels_last)
    defaults: Any = module.default_cfg
    num_features: Any = module.num_features
    return Backbone(
        module=module,
        num_features=num_features,
        normalization=Normalization(mean=tuple(defaults["mean"]), std=tuple(defaults["std"])),
    )


def read_checkpoint(path: Path, *, model: str) -> dict[str, Tensor]:
    """Reads a checkpoint of the whole model and returns its backbone's tensors under timm's names.

    Names that differ from timm's are matched in order, which needs equal shapes and equal last
    parts of the name throughout. No pickle is executed.

    Raises:
        WeightsError: The file does not fit the model.
    """
    if path.suffix == ".safetensors":
        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True)
    wanted = timm.create_model(model, pretrained=False, num_classes=0).state_dict()
    if wanted.keys() <= found.keys():
        renamed: Mapping[str, Tensor] = found
    else:
        whole = timm.create_model(model, pretrained=False).state_dict()
        if len(whole) != len(found):
            raise WeightsError(f"{path}: {len(found)} tensors, {model} has {len(whole)}")
        renamed = dict(zip(whole, found.values(), strict=True))
        _check_last_parts(path, renamed=list(whole), found=list(found))
    _check_shapes(path, wanted=wanted, found=renamed)
    return {name: renamed[name].contiguous() for name in wanted}


def _check_last_parts(path: Path, *, renamed: list[str], found: list[str]) -> None:
    for ours, theirs in zip(renamed, found, strict=True):
        if ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise WeightsError(f"{path}: tensor {theirs!r} stands where timm has {ours!r}")


def _check_shapes(path: Path, *, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: {name} has shape {tuple(found[name].shape)}, expected "
                f"{tuple(tensor.shape)}"
            )

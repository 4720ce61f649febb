"""Backbones: timm models without their classifier, and where their weights come from."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from eval.model_inputs import Normalization
from workers.models.pretrained_weights import WeightsError
from workers.sampling.seeds import derive_seed

EMBEDDING_WIDTHS = frozenset({256, 384, 512, 640, 768, 1024, 1152, 1280})
"""Of CLIP's image towers among timm's weights; those fine-tuned to ImageNet have 1,000 classes and
more, none of which is one of these."""
OPEN_CLIP_NAME = "visual.class_embedding"
"""Is in every checkpoint of open_clip's whole ViT models, which timm's own names are made of."""
BATCH_COUNT = ".num_batches_tracked"
NUM_NAMES_SHOWN = 5
"""A checkpoint of another model differs in hundreds of tensors; the first tell which it is."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A feature extractor and what its inputs and outputs look like."""

    module: nn.Module
    """Where the weights are, channels-last in memory."""
    num_features: int
    normalization: Normalization
    expansion: nn.Module | None = None
    """The module's expansion at the base (`workers.models.tangent`), in the module's weights; None
    for a backbone that is not linearised."""

    @property
    def model(self) -> nn.Module:
        """What is trained and evaluated: (batch, 3, height, width) to (batch, num_features)."""
        return self.expansion or self.module


def create_backbone(model: str, *, seed: int, device: torch.device) -> Backbone:
    """Builds a timm model without its classifier, with random weights drawn from the seed.

    CLIP's image towers keep their projection: it is no classifier, see `embedding_width`.

    Raises:
        WeightsError: timm has no such model.
    """
    width = embedding_width(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "backbone", model))
        module = timm.create_model(model, pretrained=False, num_classes=width)
    module = module.to(device).to(memory_format=torch.channels_last)
    defaults: Any = module.default_cfg
    # Some models, MobileNetV3 for one, widen their features in a layer that precedes the classifier
    # and stays: there timm's `num_features` is the width before it.
    num_features: Any = width or getattr(module, "head_hidden_size", None) or module.num_features
    return Backbone(
        module=module,
        num_features=num_features,
        normalization=Normalization(mean=tuple(defaults["mean"]), std=tuple(defaults["std"])),
    )


def embedding_width(model: str) -> int:
    """Returns the width of the embedding that a CLIP image tower ends in, 0 for other models.

    timm has the projection to it as the model's last layer. It belongs to the backbone that is
    fine-tuned and merged: it is the last layer of the image encoder (Ilharco 2023 merge it too),
    and CLIP's text embeddings, of which zero-shot heads are made, have its width.

    Raises:
        WeightsError: timm has no such model.
    """
    check_model(model)
    config = timm.get_pretrained_cfg(model)
    if "clip" in model and config is not None and config.num_classes in EMBEDDING_WIDTHS:
        return int(config.num_classes)
    return 0


def check_model(model: str) -> None:
    """Refuses a name that timm does not know.

    Raises:
        WeightsError: timm has no such model; the message names some that begin alike.
    """
    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model[:6]}*")[:5]) or "see timm.list_models()"
        raise WeightsError(f"timm has no model {model!r}; close: {near}")


def read_checkpoint(path: Path, *, model: str) -> dict[str, Tensor]:
    """Reads a checkpoint of the whole model and returns its backbone's tensors under timm's names.

    Of open_clip's ViT models the image tower is taken. Other names that differ from timm's are
    matched in order, which needs equal last parts of the names throughout, equal shapes in the
    backbone, and a file that keeps the order: safetensors files, which are sorted, need timm's
    names; torchvision's ResNets have them. Files from before BatchNorm counted its batches,
    torchvision's oldest, are taken as having counted none. Other float types become the model's. No
    pickle runs.

    Raises:
        WeightsError: The file does not fit the model, or timm has no such model.
    """
    width = embedding_width(model)
    found = _read(path)
    module = timm.create_model(model, pretrained=False, num_classes=width)
    wanted = module.state_dict()
    if OPEN_CLIP_NAME in found:
        found = checkpoint_filter_fn(dict(found), module)  # type: ignore[arg-type]
    counts = {name: like for name, like in wanted.items() if name.endswith(BATCH_COUNT)}
    if wanted.keys() - found.keys() <= counts.keys():
        named: Mapping[str, Tensor] = {**counts, **found}
    else:
        named = _renamed(found, path=path, model=model)
    _check_shapes(path, wanted=wanted, found=named)
    return {name: named[name].to(like.dtype) for name, like in wanted.items()}


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a checkpoint that can be read: {error}") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(each, Tensor) for each in found.values()
    ):
        inside = list(found)[:NUM_NAMES_SHOWN] if isinstance(found, Mapping) else type(found)
        raise WeightsError(f"{path}: not a flat mapping of names to tensors but {inside}")
    return found


def _renamed(found: Mapping[str, Tensor], *, path: Path, model: str) -> Mapping[str, Tensor]:
    whole = list(timm.create_model(model, pretrained=False).state_dict())
    if path.suffix == ".safetensors":
        missing = [name for name in whole if name not in found][:NUM_NAMES_SHOWN]
        raise WeightsError(f"{path}: names are not timm's for {model}; missing: {missing}")
    if len(whole) != len(found):
        raise WeightsError(f"{path}: {len(found)} tensors, {model} has {len(whole)}")
    for ours, theirs in zip(whole, found, strict=True):
        if ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise WeightsError(f"{path}: tensor {theirs!r} stands where timm has {ours!r}")
    return dict(zip(whole, found.values(), strict=True))


def _check_shapes(path: Path, *, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    wrong = [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(like.shape)}"
        for name, like in wanted.items()
        if found[name].shape != like.shape
    ]
    if wrong:
        more = f"; and {len(wrong) - NUM_NAMES_SHOWN} more" if len(wrong) > NUM_NAMES_SHOWN else ""
        raise WeightsError(f"{path}: {'; '.join(wrong[:NUM_NAMES_SHOWN])}{more}")

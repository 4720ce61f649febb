"""Backbones: timm models without their classifier, and reading their checkpoints."""

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
"""Widths of the embeddings of CLIP's image towers in timm. CLIP towers that were fine-tuned on
ImageNet have 1,000 classes or more, and no such number is in this set."""
OPEN_CLIP_NAME = "visual.class_embedding"
"""Name of a tensor in every checkpoint of a whole ViT model from open_clip. timm converts such
checkpoints to its own names."""
BATCH_COUNT = ".num_batches_tracked"
"""End of the names of BatchNorm's batch counters."""
NUM_NAMES_SHOWN = 5
"""Names in a message; a checkpoint of another model differs in hundreds of tensors."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A feature extractor, with the normalization of its inputs and the width of its outputs."""

    module: nn.Module
    """The timm model, whose weights are channels-last in memory."""
    num_features: int
    """Width of the features."""
    normalization: Normalization
    expansion: nn.Module | None = None
    """The expansion of `module` at the base (`workers.models.tangent`); None for a backbone that is
    not linearised."""

    @property
    def model(self) -> nn.Module:
        """The model to train and evaluate: (batch, 3, height, width) to (batch, num_features)."""
        return self.expansion or self.module


def create_backbone(
    model: str, *, seed: int, device: torch.device, image_size: int | None = None
) -> Backbone:
    """Builds a timm model without its classifier, with random weights that depend on the seed.

    CLIP's image towers keep their projection, which is not a classifier; see `embedding_width`.

    Args:
        model: A timm model name.
        seed: Seeds the weights.
        device: Where the weights lie.
        image_size: Height and width of the images to build the model for, for models that cannot
            take them otherwise; None for the model's own size.

    Raises:
        WeightsError: timm has no such model.
    """
    width = embedding_width(model)
    resized: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "backbone", model))
        module = timm.create_model(model, pretrained=False, num_classes=width, **resized)
    module = module.to(device).to(memory_format=torch.channels_last)
    defaults: Any = module.default_cfg
    # Some models, for example MobileNetV3, have a layer before the classifier that widens the
    # features. It stays, and timm's `num_features` is the width before it.
    num_features: Any = width or getattr(module, "head_hidden_size", None) or module.num_features
    return Backbone(
        module=module,
        num_features=num_features,
        normalization=Normalization(mean=tuple(defaults["mean"]), std=tuple(defaults["std"])),
    )


def embedding_width(model: str) -> int:
    """Returns the width of a CLIP image tower's embedding; 0 for other models.

    In timm, the projection to the embedding is the model's last layer. It belongs to the backbone
    and is fine-tuned and merged with it: it is the last layer of the image encoder, which Ilharco
    2023 merge as well. CLIP's text embeddings, which zero-shot heads consist of, have its width.

    Raises:
        WeightsError: timm has no such model.
    """
    check_model(model)
    config = timm.get_pretrained_cfg(model)
    if "clip" in model and config is not None and config.num_classes in EMBEDDING_WIDTHS:
        return int(config.num_classes)
    return 0


def check_model(model: str) -> None:
    """Checks that timm has a model.

    Raises:
        WeightsError: timm has no such model; the message has some similar names.
    """
    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"*{model[:6]}*")[:5]) or "see timm.list_models()"
        raise WeightsError(f"timm has no model {model!r}; similar names: {near}")


def read_checkpoint(path: Path, *, model: str) -> dict[str, Tensor]:
    """Reads a checkpoint of a whole model and returns the backbone's tensors by timm's names.

    * A checkpoint of an open_clip ViT model gives the tensors of its image tower.
    * If the tensors have other names than in timm, they are matched by order. The last parts of the
      names and the shapes must agree. Safetensors files are sorted by name, which loses the order,
      so they must have timm's names; torchvision's ResNets have them.
    * The batch counters of BatchNorm may be missing, as in torchvision's oldest files, and are then
      zero.
    * Floating point tensors are converted to the model's dtypes.
    * No pickled code is executed.

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
        raise WeightsError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(found, Mapping) or not all(
        isinstance(each, Tensor) for each in found.values()
    ):
        inside = list(found)[:NUM_NAMES_SHOWN] if isinstance(found, Mapping) else type(found)
        raise WeightsError(
            f"{path} must contain a flat mapping of names to tensors, but contains {inside}"
        )
    return found


def _renamed(found: Mapping[str, Tensor], *, path: Path, model: str) -> Mapping[str, Tensor]:
    whole = list(timm.create_model(model, pretrained=False).state_dict())
    if path.suffix == ".safetensors":
        missing = [name for name in whole if name not in found][:NUM_NAMES_SHOWN]
        raise WeightsError(
            f"{path} does not have timm's names for the tensors of {model}; it lacks {missing}"
        )
    if len(whole) != len(found):
        raise WeightsError(f"{path} has {len(found)} tensors, but {model} has {len(whole)}")
    for ours, theirs in zip(whole, found, strict=True):
        if ours.rpartition(".")[2] != theirs.rpartition(".")[2]:
            raise WeightsError(f"{path} has the tensor {theirs!r} in the place of timm's {ours!r}")
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

"""Backbones: timm models without their classifier."""

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from eval.model_inputs import Normalization
from workers.models.memory_layout import lay_out
from workers.models.pretrained_weights import WeightsError
from workers.sampling.seeds import derive_seed

EMBEDDING_WIDTHS = frozenset({256, 384, 512, 640, 768, 1024, 1152, 1280})
"""Widths of the embeddings of CLIP's image towers in timm. CLIP towers that were fine-tuned on
ImageNet have 1,000 classes or more, and no such number is in this set."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A feature extractor, with the normalization of its inputs and the width of its outputs."""

    module: nn.Module
    """The timm model, whose weights lie in memory as `lay_out` says."""
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
    module = lay_out(module, device=device)
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

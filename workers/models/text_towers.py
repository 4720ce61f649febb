"""Text towers of CLIP models; the only module that imports the optional package open_clip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from workers.models.pretrained_weights import INSTALL_OPEN_CLIP, WeightsError

TEXTS_AT_ONCE = 256
"""Texts of one batch; the activations of ViT-B/32's tower take 0.6 GB."""


class TextTower(Protocol):
    """The part of a CLIP model that a zero-shot head is made with."""

    @property
    def logit_scale(self) -> float:
        """Factor from cosines to logits."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns the embeddings of texts, (texts, width), of norm 1 in float32."""


class OpenClipTower:
    """The text tower of an open_clip model."""

    def __init__(self, model: Any, *, tokenizer: Any) -> None:  # noqa: ANN401 open_clip is untyped
        self._model = model.eval()
        self._tokenizer = tokenizer

    @property
    def logit_scale(self) -> float:
        """Factor from cosines to logits."""
        return float(self._model.logit_scale.detach().exp())

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns the embeddings of texts, (texts, width), of norm 1 in float32."""
        with torch.inference_mode():
            return torch.cat(
                [
                    nn.functional.normalize(self._encoded(texts[start : start + TEXTS_AT_ONCE]))
                    for start in range(0, len(texts), TEXTS_AT_ONCE)
                ]
            ).clone()

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        encoded: Tensor = self._model.encode_text(self._tokenizer(list(texts)))
        return encoded.float()


def open_text_tower(model: str, *, weights: str | Path) -> OpenClipTower:
    """Loads an open_clip model on the CPU, where it runs once per task.

    Args:
        model: The model's name in open_clip, such as `ViT-B-32`.
        weights: One of open_clip's tags, such as `openai`, or the path of a checkpoint of the whole
            model.

    Raises:
        WeightsError: open_clip is not installed, has no such model, or cannot load the weights.
    """
    try:
        import open_clip  # noqa: PLC0415 optional
    except ImportError as error:
        raise WeightsError(
            f"zero-shot heads need open_clip on every node ({error}); run: {INSTALL_OPEN_CLIP}"
        ) from error
    if model not in (known := open_clip.list_models()):
        near = ", ".join(name for name in known if name[:5] == model[:5]) or ", ".join(known)
        raise WeightsError(f"open_clip has no model {model!r}; similar names: {near}")
    try:
        tower = open_clip.create_model(model, pretrained=str(weights), require_pretrained=True)
        return OpenClipTower(tower, tokenizer=open_clip.get_tokenizer(model))
    except Exception as error:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model))
        raise WeightsError(
            f"open_clip cannot load the weights {weights} of {model} ({error}); set "
            f"finetune.zero_shot.weights to one of its tags ({tags}) or to a checkpoint of the "
            "whole model"
        ) from error

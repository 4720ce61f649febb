"""The text tower of a CLIP model, from open_clip: the one importer of that optional package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from workers.models.pretrained_weights import WeightsError

INSTALL = "pip install 'mergesweep[clip]'"
TEXTS_AT_ONCE = 256
"""Texts that are encoded together: 0.6 GB of activations in ViT-B/32's tower."""


class TextTower(Protocol):
    """What a zero-shot head asks of a CLIP model."""

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with to become logits."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns (texts, width) embeddings of norm 1, float32."""


class OpenClipTower:
    """The text tower of a model of open_clip."""

    def __init__(self, model: Any, *, tokenizer: Any) -> None:  # noqa: ANN401 open_clip is untyped
        self._model = model.eval()
        self._tokenizer = tokenizer

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with to become logits."""
        return float(self._model.logit_scale.detach().exp())

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns (texts, width) embeddings of norm 1, float32."""
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
    """Loads a model of open_clip, on the CPU: it runs once a task.

    Args:
        model: open_clip's name, such as `ViT-B-32`.
        weights: One of open_clip's tags, such as `openai`, or a checkpoint of the whole model.

    Raises:
        WeightsError: open_clip is not installed, has no such model, or the weights cannot be had.
    """
    try:
        import open_clip  # noqa: PLC0415 optional
    except ImportError as error:
        raise WeightsError(
            f"zero-shot heads need open_clip on every node ({error}): {INSTALL}"
        ) from error
    if model not in (known := open_clip.list_models()):
        near = ", ".join(name for name in known if name[:5] == model[:5]) or ", ".join(known)
        raise WeightsError(f"open_clip has no model {model!r}; close: {near}")
    try:
        tower = open_clip.create_model(model, pretrained=str(weights), require_pretrained=True)
        return OpenClipTower(tower, tokenizer=open_clip.get_tokenizer(model))
    except Exception as error:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model))
        raise WeightsError(
            f"{weights} gave no weights of open_clip's {model} ({error}); its tags: {tags}; or "
            "give a checkpoint of the whole model as finetune.zero_shot.weights"
        ) from error

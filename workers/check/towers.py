"""Checks that a zero-shot head can be made for a model and fits it."""

import importlib
from collections.abc import Iterator
from typing import Any

from workers.check.names import did_you_mean, similar_names
from workers.check.report import Fault, ModelReport, TowerUse
from workers.models.backbones import embedding_width
from workers.models.pretrained_weights import WeightsError


def check_tower(use: TowerUse) -> ModelReport:
    """Checks that a zero-shot head exists and fits the model."""
    try:
        width = embedding_width(use.model)
    except WeightsError:
        return ModelReport()  # the check of the model reports it
    if width == 0:
        fault = Fault(
            kind="model",
            fault=f"{use.model} has no projection to the embeddings of CLIP, so no zero-shot head "
            "fits it: it is no image tower of CLIP, or was fine-tuned as a classifier",
            remedy="use an image tower, such as vit_base_patch32_clip_quickgelu_224.openai",
        )
        return ModelReport(faults=(fault,))
    if not use.has_open_clip:
        return ModelReport()
    open_clip = importlib.import_module("open_clip")
    return ModelReport(faults=tuple(_faults(use, width=width, open_clip=open_clip)))


def _faults(use: TowerUse, *, width: int, open_clip: Any) -> Iterator[Fault]:  # noqa: ANN401 untyped
    known = open_clip.list_models()
    if use.tower not in known:
        yield Fault(
            kind="tower",
            fault=f"open_clip has no model {use.tower!r}",
            remedy=did_you_mean(
                similar_names(use.tower, known=known), otherwise="`open_clip.list_models()`"
            ),
        )
        return
    tags = open_clip.list_pretrained_tags_by_model(use.tower)
    if use.tag is not None and use.tag not in tags:
        yield Fault(
            kind="tower_weights",
            fault=f"open_clip has no weights {use.tag!r} of {use.tower}",
            remedy=f"expected one of {', '.join(tags)}, or the path of a checkpoint file",
        )
    found = open_clip.get_model_config(use.tower)["embed_dim"]
    if found != width:
        yield Fault(
            kind="tower",
            fault=f"{use.tower} has embeddings of width {found}, but the image tower {use.model} "
            f"of width {width}",
            remedy="use the image tower and the text tower of one CLIP model",
        )

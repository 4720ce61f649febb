"""Checks that the bases of a study can be had: their weights, their pretraining, their axes."""

from collections.abc import Collection, Iterator
from pathlib import Path

from eval.suites import SUITES, task_names
from orchestrator.study.credentials import masked
from orchestrator.study.problems import StudyProblem, suggest
from orchestrator.study.schema import BackboneSection, Finetune, Pretrain
from workers.models.pretrained_weights import (
    PACKAGED,
    WeightsError,
    is_remote,
    parse_remote,
    read_digest,
)

_PATIENCE_S = 2.0  # someone waits


def check_backbone(
    backbone: BackboneSection, *, finetune: Finetune | None, own: Collection[str]
) -> Iterator[StudyProblem]:
    """Yields what is wrong between the fields of a backbone that is well formed itself.

    Args:
        backbone: The section.
        finetune: The study's; None while it is wrong itself.
        own: The names of the study's own tasks.
    """
    yield from _check_default(backbone)
    yield from _check_model_axis(backbone)
    for index, weights in enumerate(backbone.axes.weights):
        field = f"backbone.axes.weights[{index}]"
        yield from _check_weights(field, weights=weights, model=backbone.model)
    if backbone.pretrain is not None:
        yield from _check_tasks(backbone.pretrain, own=own)
    elif backbone.axes.pretrain_steps:
        yield StudyProblem(
            field="backbone.axes.pretrain_steps",
            value=str(backbone.axes.pretrain_steps),
            allowed="it needs backbone.pretrain, which says on which tasks and how",
        )
    if finetune is not None and finetune.design == "random" and backbone.axes.varied():
        yield StudyProblem(
            field="finetune.design",
            value="'random' with backbone.axes",
            allowed="experts of different bases cannot be merged: use one-factor or grid",
        )


def _check_default(backbone: BackboneSection) -> Iterator[StudyProblem]:
    model = backbone.model
    if isinstance(backbone.weights, str):
        yield from _check_weights("backbone.weights", weights=backbone.weights, model=model)
        return
    models = {model, *backbone.axes.model}
    for name in sorted(models - backbone.weights.keys()):
        yield StudyProblem(
            field="backbone.weights", value=f"no entry for {name!r}", allowed="one for each model"
        )
    for name, weights in backbone.weights.items():
        field = f"backbone.weights.{name}"
        if name in models:
            yield from _check_weights(field, weights=weights, model=name)
        else:
            yield StudyProblem(
                field=field, value="this model", allowed=suggest(name, known=sorted(models))
            )


def _check_model_axis(backbone: BackboneSection) -> Iterator[StudyProblem]:
    """Checks one source of weights against every model on the axis; a mapping has its own check."""
    if isinstance(backbone.weights, str):
        for index, model in enumerate(backbone.axes.model):
            if model != backbone.model:
                field = f"backbone.axes.model[{index}]"
                yield from _check_weights(field, weights=backbone.weights, model=model)


def _check_weights(field: str, *, weights: str, model: str) -> Iterator[StudyProblem]:
    if weights == "package" and model not in PACKAGED:
        yield StudyProblem(
            field=field,
            value="'package'",
            allowed=f"no package carries weights for {model!r}, only for: "
            f"{', '.join(PACKAGED)}; use timm, none, or the path of a checkpoint",
        )
    elif is_remote(weights):
        yield from _check_remote(field, weights=weights)
    elif weights not in ("package", "timm", "none") and not Path(weights).is_file():
        yield StudyProblem(
            field=field,
            value=repr(weights),
            allowed="package, timm, none, the path of an existing checkpoint file, or "
            "s3://bucket/key#sha256=<digest>",
        )


def _check_remote(field: str, *, weights: str) -> Iterator[StudyProblem]:
    """Checks a URL; the object is read where its digest is lacking, to tell it."""
    try:
        remote = parse_remote(weights)
        if remote.digest is None:
            digest = read_digest(remote, patience_s=_PATIENCE_S)
            yield StudyProblem(
                field=field,
                value="a URL without a digest",
                allowed=f"the object now has #sha256={digest}: append that",
            )
    except WeightsError as error:
        yield StudyProblem(field=field, value=masked(repr(weights)), allowed=masked(str(error)))


def _check_tasks(pretrain: Pretrain, *, own: Collection[str]) -> Iterator[StudyProblem]:
    if isinstance(pretrain.tasks, str):
        if pretrain.tasks not in SUITES:
            allowed = suggest(pretrain.tasks, known=list(SUITES))
            yield StudyProblem(
                field="backbone.pretrain.tasks", value=repr(pretrain.tasks), allowed=allowed
            )
        return
    for index, name in enumerate(pretrain.tasks):
        if name not in (known := (*task_names(), *own)):
            yield StudyProblem(
                field=f"backbone.pretrain.tasks[{index}]",
                value=repr(name),
                allowed=suggest(name, known=known),
            )

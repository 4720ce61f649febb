"""Checks the bases of a study: their weights, their pretraining and their axes."""

from collections.abc import Collection, Iterator

from eval.suites import SUITES, task_names
from eval.user_paths import is_file
from orchestrator.study.backbone import BackboneSection, Pretrain
from orchestrator.study.checks.counts import check_num_settings
from orchestrator.study.credentials import masked
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem, suggest, wrong_value
from workers.models.pretrained_weights import (
    PACKAGED,
    WeightsError,
    is_remote,
    parse_remote,
    read_digest,
)

_RETRY_TIMEOUT_S = 2.0  # a person waits for the answer


def check_backbone(
    backbone: BackboneSection, *, finetune: Finetune | None, own: Collection[str]
) -> Iterator[StudyProblem]:
    """Yields the problems between the fields of a section that is valid by itself.

    Args:
        backbone: The section.
        finetune: The study's section; None if that is invalid.
        own: The names of the study's own tasks.
    """
    yield from _check_default(backbone)
    yield from _check_model_axis(backbone)
    is_grid = finetune is not None and finetune.design == "grid"
    crossed = backbone.axes.model if is_grid else []
    for index, weights in enumerate(backbone.axes.weights):
        field = f"backbone.axes.weights[{index}]"
        for model in dict.fromkeys((backbone.model, *crossed)):
            yield from _check_weights(field, weights=weights, model=model)
    if backbone.pretrain is not None:
        yield from _check_tasks(backbone.pretrain, own=own)
    elif backbone.axes.pretrain_steps:
        yield wrong_value(
            "backbone.axes.pretrain_steps",
            backbone.axes.pretrain_steps,
            remedy="add backbone.pretrain, which says how and on which tasks to pretrain",
        )
    if finetune is not None:
        yield from check_num_settings(finetune, backbone=backbone)
    if finetune is not None and backbone.axes.varied():
        if finetune.design == "random":
            remedy = (
                "backbone.axes gives experts different bases, and experts of different bases "
                "cannot be merged; use one-factor or grid"
            )
            yield wrong_value("finetune.design", "random", remedy=remedy)
        elif finetune.design == "listed":
            remedy = "listed points have one base; use one-factor or grid, or drop backbone.axes"
            yield wrong_value("finetune.design", "listed", remedy=remedy)


def _check_default(backbone: BackboneSection) -> Iterator[StudyProblem]:
    model = backbone.model
    if isinstance(backbone.weights, str):
        yield from _check_weights("backbone.weights", weights=backbone.weights, model=model)
        return
    models = {model, *backbone.axes.model}
    for name in sorted(models - backbone.weights.keys()):
        yield StudyProblem(
            field="backbone.weights",
            fault=f"no weights for the model {name!r}",
            remedy="add an entry for every model of the study",
        )
    for name, weights in backbone.weights.items():
        field = f"backbone.weights.{name}"
        if name in models:
            yield from _check_weights(field, weights=weights, model=name)
        else:
            remedy = suggest(name, known=sorted(models), kind="models of the study")
            yield StudyProblem(field=field, fault="unknown model", remedy=remedy)


def _check_model_axis(backbone: BackboneSection) -> Iterator[StudyProblem]:
    """Checks one source for every model on the axis; `_check_default` checks a mapping."""
    if isinstance(backbone.weights, str):
        for index, model in enumerate(backbone.axes.model):
            if model != backbone.model:
                field = f"backbone.axes.model[{index}]"
                yield from _check_weights(field, weights=backbone.weights, model=model)


def _check_weights(field: str, *, weights: str, model: str) -> Iterator[StudyProblem]:
    if weights == "package" and model not in PACKAGED:
        yield wrong_value(
            field,
            weights,
            remedy=f"no Python package contains weights for {model!r}, only for "
            f"{', '.join(PACKAGED)}; use timm, none, or the path of a checkpoint file",
        )
    elif is_remote(weights):
        yield from check_remote(field, weights=weights)
    elif weights not in ("package", "timm", "none") and not is_file(weights):
        yield wrong_value(
            field,
            weights,
            remedy="expected package, timm, none, the path of an existing checkpoint file, or "
            "s3://bucket/key#sha256=<digest>",
        )


def check_remote(field: str, *, weights: str) -> Iterator[StudyProblem]:
    """Yields the problems of a URL; if it has no digest, reads the object to tell the digest."""
    try:
        remote = parse_remote(weights)
        if remote.digest is None:
            digest = read_digest(remote, retry_timeout_s=_RETRY_TIMEOUT_S)
            yield StudyProblem(
                field=field,
                fault="the URL has no digest",
                remedy=f"append #sha256={digest}, the digest of the object as it is now",
            )
    except WeightsError as error:
        yield wrong_value(field, weights, remedy=masked(str(error)))


def _check_tasks(pretrain: Pretrain, *, own: Collection[str]) -> Iterator[StudyProblem]:
    field = "backbone.pretrain.tasks"
    if isinstance(pretrain.tasks, str):
        if pretrain.tasks not in SUITES:
            remedy = suggest(pretrain.tasks, known=SUITES, kind="suites")
            yield wrong_value(field, pretrain.tasks, remedy=remedy)
        return
    for index, name in enumerate(pretrain.tasks):
        if name not in (known := (*task_names(), *own)):
            remedy = suggest(name, known=known, kind="tasks")
            yield wrong_value(f"{field}[{index}]", name, remedy=remedy)

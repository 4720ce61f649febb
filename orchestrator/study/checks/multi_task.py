"""Checks that a study's multi-task models can be trained as its experts are."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.study.backbone import BackboneSection
from orchestrator.study.checks.lora import has_adapters
from orchestrator.study.finetune import Finetune
from orchestrator.study.method_labels import method_labels
from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Groups, Merge, MultiTask

FIELD = "baselines.multi_task"
LABEL = "multi-task"


def check_multi_task(
    multi_task: MultiTask | None,
    *,
    finetune: Finetune | None,
    backbone: BackboneSection | None,
    groups: Groups | None,
    merges: Mapping[int, Merge],
) -> Iterator[StudyProblem]:
    """Yields the settings that multi-task models do not have, and a method with their name.

    Args:
        multi_task: The section; nothing is checked if it is None.
        finetune: The study's section; None if that is invalid.
        backbone: The study's section; None if that is invalid.
        groups: The study's section; None if that is invalid.
        merges: The study's valid entries, by position in the file.
    """
    if multi_task is None:
        return
    remedy = "leave out one of the two"
    if backbone is not None and (backbone.pretrain is not None):
        fault = "it starts from a base without pretraining, and backbone.pretrain is given"
        yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
    if finetune is not None:
        heads = {finetune.head.mode, *finetune.varied().get("head", [])}
        if finetune.zero_shot is not None or heads != {"trained"}:
            fault = "its heads are trained, and the experts' are not (finetune.head or zero_shot)"
            yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
        if finetune.linearised or True in finetune.varied().get("linearised", []):
            fault = "it is not linearised, and the experts are"
            yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
        if has_adapters(finetune):
            fault = "all its weights are trained, and some experts train adapters (finetune.lora)"
            yield StudyProblem(field=FIELD, fault=fault, remedy=remedy)
    for index, label in zip(merges, method_labels(list(merges.values())), strict=True):
        if label == LABEL:
            fault = f"{label!r} is the name of the multi-task models in tables"
            remedy = "give the entry another `label`"
            yield StudyProblem(field=f"merge[{index}].label", fault=fault, remedy=remedy)
    if multi_task.settings == "defaults" and finetune and backbone and groups:
        yield from _check_defaults(finetune, backbone=backbone, groups=groups)


def _check_defaults(
    finetune: Finetune, *, backbone: BackboneSection, groups: Groups
) -> Iterator[StudyProblem]:
    """Yields a problem if the study has no setting at which every axis has its default value."""
    if groups.size in (*groups.sizes, *groups.pool) and finetune.design != "random":
        return  # settings on the axes of groups have the default hyperparameters
    defaults = {
        **vars(finetune.default_point),
        "model": backbone.model,
        "weights": backbone.weights_of(backbone.model),
    }
    axes = {**finetune.axes.varied(), **backbone.axes.varied()}
    lacking = [name for name, values in axes.items() if defaults[name] not in values]
    if finetune.design == "listed":
        has_defaults = any(point.items() <= defaults.items() for point in finetune.points)
        remedy = "add a point with the default values to finetune.points, or use `settings: all`"
    elif finetune.design == "random":
        has_defaults = False
        remedy = "the random design draws its settings; use `settings: all`"
    elif finetune.design == "grid":
        has_defaults = not lacking
        remedy = f"add the default values to their axes: {_values(lacking, of=defaults)}"
    elif axes:
        has_defaults = len(lacking) < len(axes)
        remedy = f"add a default value to its axis, one of {_values(lacking, of=defaults)}"
    else:
        has_defaults = not (groups.sizes or groups.pool)
        remedy = f"add groups.size, which is {groups.size}, to groups.sizes or groups.pool"
    if not has_defaults:
        fault = "no setting of the study has every axis at its default value"
        yield StudyProblem(field=f"{FIELD}.settings", fault=fault, remedy=remedy)


def _values(names: Iterable[str], *, of: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {of[name]}" for name in names)

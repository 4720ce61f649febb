"""Checks that the choices of fine-tuning fit each other and the merges."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from orchestrator.study.checks.lora import check_lora
from orchestrator.study.checks.points import points
from orchestrator.study.finetune import Finetune, FinetuneAxes
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import Merge
from workers.specs.hyperparameters import USED_BY

READS_LAYERS = "regmean"
"""The method that reads the inputs of each layer, which an expansion at the base does not have."""


def check_finetune(
    finetune: Finetune, *, merges: Mapping[int, Merge], base_axes: Collection[str]
) -> Iterator[StudyProblem]:
    """Yields the problems between the fields of a section that is valid by itself.

    Args:
        finetune: The section.
        merges: The study's valid merges, by position in the file.
        base_axes: The names of the axes under `backbone.axes`.
    """
    yield from _check_design(finetune, base_axes=base_axes)
    yield from _check_nesterov(finetune)
    yield from _check_warmup(finetune)
    yield from _check_unused(finetune)
    if True in _values(finetune, "linearised"):
        yield from _check_linearised(finetune, merges=merges)
    yield from check_lora(finetune)


def _check_design(finetune: Finetune, *, base_axes: Collection[str]) -> Iterator[StudyProblem]:
    varied = {*finetune.axes.varied(), *(base_axes if finetune.design == "grid" else ())}
    if finetune.design == "listed" and not finetune.points:
        remedy = "this design needs finetune.points, a list such as `[{lr: 0.001, steps: 500}]`"
        yield wrong_value("finetune.design", finetune.design, remedy=remedy)
    elif finetune.design not in {"one-factor", "listed"} and not varied:
        yield wrong_value(
            "finetune.design",
            finetune.design,
            remedy="this design needs at least one axis under finetune.axes: "
            f"{', '.join(FinetuneAxes.model_fields)}",
        )
    if finetune.design == "listed" and finetune.axes.varied():
        yield StudyProblem(
            field="finetune.axes",
            fault="the listed design has no axes",
            remedy="give every value under finetune.points, or use another design",
        )
    if finetune.design != "listed" and finetune.points:
        yield StudyProblem(
            field="finetune.points",
            fault=f"the design {finetune.design} has no listed points",
            remedy="set `design: listed`, or leave this field out",
        )
    if finetune.design != "random" and finetune.draws != 1:
        yield wrong_value(
            "finetune.draws",
            finetune.draws,
            remedy="only the random design draws; leave this field out, or set `design: random`",
        )


def _check_nesterov(finetune: Finetune) -> Iterator[StudyProblem]:
    if not finetune.optimizer.nesterov:
        return
    field = "finetune.optimizer.nesterov"
    if "sgd" not in _values(finetune, "optimizer"):
        remedy = "only sgd has Nesterov momentum; leave this field out"
        yield wrong_value(field, value=True, remedy=remedy)
    elif finetune.optimizer.momentum == 0:
        remedy = "Nesterov momentum needs finetune.optimizer.momentum above 0"
        yield wrong_value(field, value=True, remedy=remedy)


def _check_warmup(finetune: Finetune) -> Iterator[StudyProblem]:
    for point in points(finetune, "schedule", "warmup_steps", "steps"):
        schedule, warmup, steps = point["schedule"], point["warmup_steps"], point["steps"]
        if schedule != "constant" and warmup >= steps:
            yield wrong_value(
                "finetune.warmup_steps",
                warmup,
                remedy=f"expected less than {steps}: a training of {steps} steps with the "
                f"schedule `{schedule}` needs steps after the warmup",
            )
            return


def _check_unused(finetune: Finetune) -> Iterator[StudyProblem]:
    """Yields constants and axes that would not change any expert."""
    for name, user in USED_BY.items():
        default = getattr(finetune.average_weights, name)
        is_written = name in finetune.average_weights.model_fields_set
        if is_written and user not in _values(finetune, "average_weights"):
            yield wrong_value(
                f"finetune.average_weights.{name}",
                default,
                remedy=f"only `average_weights: {user}` uses it; set that, or leave this field out",
            )
        others = [
            point for point in points(finetune, "average_weights", name) if point[name] != default
        ]
        is_varied = name in finetune.varied()
        if is_varied and all(point["average_weights"] != user for point in others):
            yield StudyProblem(
                field="finetune.points" if finetune.points else f"finetune.axes.{name}",
                fault="this axis would not change any expert",
                remedy=f"only `average_weights: {user}` uses it; set that beside the axis, or vary "
                "both in a grid",
            )
    if "l2" in finetune.head.model_fields_set and _values(finetune, "head") == {"trained"}:
        yield wrong_value(
            "finetune.head.l2",
            finetune.head.l2,
            remedy="only a linear probe uses it; set `mode: frozen` or `mode: probe_first`, or "
            "leave this field out",
        )


def _check_linearised(finetune: Finetune, *, merges: Mapping[int, Merge]) -> Iterator[StudyProblem]:
    if not finetune.freeze_batch_norm:
        yield wrong_value(
            "finetune.freeze_batch_norm",
            value=False,
            remedy="a linearised model keeps the base's BatchNorm statistics; expected true",
        )
    if finetune.design == "random" and finetune.axes.linearised:
        yield StudyProblem(
            field="finetune.axes.linearised",
            fault="this axis does not fit the random design, which mixes its values in a group",
            remedy="the experts of a merge must be all linearised or all not; use one-factor or "
            "grid",
        )
    for index, merge in merges.items():
        if merge.batch_norm == "recalibrate":
            yield wrong_value(
                f"merge[{index}].batch_norm",
                merge.batch_norm,
                remedy="a linearised model (`linearised: true`) keeps the base's BatchNorm "
                "statistics; leave this field out",
            )
        if merge.method == READS_LAYERS:
            yield wrong_value(
                f"merge[{index}].method",
                merge.method,
                remedy="it reads the inputs of layers, which a linearised model "
                "(`linearised: true`) computes at the base only; use another method",
            )


def _values(finetune: Finetune, name: str) -> set[Any]:
    """Returns all values of a hyperparameter in the study."""
    return {point[name] for point in points(finetune, name)}

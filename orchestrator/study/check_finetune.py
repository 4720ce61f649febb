"""Checks that the choices of fine-tuning go together, with one another and with the merges."""

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Axes, Finetune, Merge
from workers.specs.hyperparameters import USED_BY

READS_LAYERS = "regmean"
"""The method that watches what each layer is given, which an expansion does not show."""


def check_finetune(
    finetune: Finetune, *, merges: Mapping[int, Merge], base_axes: Collection[str]
) -> Iterator[StudyProblem]:
    """Yields what is wrong between the fields of a well-formed section.

    Args:
        finetune: The section.
        merges: The study's well-formed methods, by place in the file.
        base_axes: The names of what the study varies of the base.
    """
    yield from _check_design(finetune, base_axes=base_axes)
    yield from _check_nesterov(finetune)
    yield from _check_warmup(finetune)
    yield from _check_idle(finetune)
    if True in _values(finetune, "linearised"):
        yield from _check_linearised(finetune, merges=merges)


def _check_design(finetune: Finetune, *, base_axes: Collection[str]) -> Iterator[StudyProblem]:
    varied = {*finetune.axes.varied(), *(base_axes if finetune.design == "grid" else ())}
    if finetune.design != "one-factor" and not varied:
        yield StudyProblem(
            field="finetune.design",
            value=repr(finetune.design),
            allowed=f"it needs an axis under finetune.axes: {', '.join(Axes.model_fields)}",
        )
    if finetune.design != "random" and finetune.draws != 1:
        yield StudyProblem(
            field="finetune.draws",
            value=str(finetune.draws),
            allowed="only `design: random` draws; leave it out",
        )


def _check_nesterov(finetune: Finetune) -> Iterator[StudyProblem]:
    if not finetune.optimizer.nesterov:
        return
    if "sgd" not in _values(finetune, "optimizer"):
        yield StudyProblem(
            field="finetune.optimizer.nesterov",
            value="true",
            allowed="only sgd looks ahead along its momentum; leave it out",
        )
    elif finetune.optimizer.momentum == 0:
        yield StudyProblem(
            field="finetune.optimizer.nesterov",
            value="true",
            allowed="it needs finetune.optimizer.momentum above 0",
        )


def _check_warmup(finetune: Finetune) -> Iterator[StudyProblem]:
    for point in _points(finetune, "schedule", "warmup_steps", "steps"):
        schedule, warmup, steps = point["schedule"], point["warmup_steps"], point["steps"]
        if schedule != "constant" and warmup >= steps:
            yield StudyProblem(
                field="finetune.warmup_steps",
                value=str(warmup),
                allowed=f"less than the steps of every run: {steps} of them with `{schedule}` "
                "leave none to decay over",
            )
            return


def _check_idle(finetune: Finetune) -> Iterator[StudyProblem]:
    """Yields constants and axes that would change no expert."""
    for name, mode in USED_BY.items():
        field = f"finetune.average_weights.{name}"
        is_written = name in finetune.average_weights.model_fields_set
        if is_written and mode not in _values(finetune, "average_weights"):
            value = getattr(finetune.average_weights, name)
            yield StudyProblem(
                field=field, value=str(value), allowed=f"it needs `average_weights: {mode}`"
            )
        varies = bool(getattr(finetune.axes, name))
        if varies and all(
            point["average_weights"] != mode
            for point in _points(finetune, "average_weights", name)
            if point[name] != getattr(finetune.average_weights, name)
        ):
            yield StudyProblem(
                field=f"finetune.axes.{name}",
                value="this axis",
                allowed=f"it changes nothing without `average_weights: {mode}` beside it",
            )
    if "l2" in finetune.head.model_fields_set and _values(finetune, "head") == {"trained"}:
        yield StudyProblem(
            field="finetune.head.l2",
            value=str(finetune.head.l2),
            allowed="only a probe has it: `mode: frozen` or `probe_first`",
        )


def _check_linearised(finetune: Finetune, *, merges: Mapping[int, Merge]) -> Iterator[StudyProblem]:
    if not finetune.freeze_batch_norm:
        yield StudyProblem(
            field="finetune.freeze_batch_norm",
            value="false",
            allowed="an expansion (`linearised: true`) has the base's running statistics: true",
        )
    if finetune.design == "random" and finetune.axes.linearised:
        yield StudyProblem(
            field="finetune.axes.linearised",
            value="this axis",
            allowed="experts of one merge are all linearised or none is; `design: random` mixes",
        )
    for index, merge in merges.items():
        if merge.batch_norm == "recalibrate":
            yield StudyProblem(
                field=f"merge[{index}].batch_norm",
                value="'recalibrate'",
                allowed="an expansion (`linearised: true`) has the base's running statistics; "
                "leave it out",
            )
        if merge.method == READS_LAYERS:
            yield StudyProblem(
                field=f"merge[{index}].method",
                value=repr(merge.method),
                allowed="it reads the inputs of layers, which an expansion (`linearised: true`) "
                "applies at the base; any other method",
            )


def _values(finetune: Finetune, name: str) -> set[Any]:
    """Returns the values that a hyperparameter has anywhere in the study."""
    return {point[name] for point in _points(finetune, name)}


def _points(finetune: Finetune, *names: str) -> Iterator[dict[str, Any]]:
    """Yields the combinations of some hyperparameters that the design can visit."""
    default = {name: getattr(finetune.default_point, name) for name in names}
    varied = {name: axis for name, axis in finetune.axes.varied().items() if name in names}
    if finetune.design == "one-factor":
        yield default
        for name, axis in varied.items():
            yield from ({**default, name: value} for value in axis)
        return
    for values in itertools.product(*varied.values()):
        yield {**default, **dict(zip(varied, values, strict=True))}

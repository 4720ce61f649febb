"""Checks the choices of merges on validation images: parameters, and steps of each task."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import prod

from eval.counts import counted
from merge.catalogue import CARDS
from merge.ranges import Count, Number, problems_of, range_of
from orchestrator.study.finetune import Finetune
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import STEPS, TUNE, Evaluation, Merge
from orchestrator.study.tasks import Tasks
from workers.specs.tuning import MAX_POINTS

_EXAMPLE = f"`{{{TUNE}: [0.1, 0.2, 0.3]}}`"


def check_tuning(
    merges: Mapping[int, Merge], *, tasks: Tasks | None, evaluation: Evaluation | None
) -> Iterator[StudyProblem]:
    """Yields wrong lists of values, too many combinations, and a lack of validation images.

    Entries that choose steps need validation images too.

    Args:
        merges: The study's valid entries, by position in the file.
        tasks: The study's section; None if that is invalid.
        evaluation: The study's section, whose temperatures need validation images too; None if that
            is invalid.
    """
    for index, merge in merges.items():
        field = f"merge[{index}]"
        if merge.own_method is not None or merge.method in CARDS:
            yield from _check_values(field, merge=merge)
        remedy = f"no parameter of this entry is tuned; give one values to try, as {_EXAMPLE}"
        for name in ("tuned_by", "tuned_over"):
            if not merge.tuned and name in merge.model_fields_set:
                yield wrong_value(f"{field}.{name}", getattr(merge, name), remedy=remedy)
    chooses = [index for index, merge in merges.items() if merge.tuned or merge.step_rule]
    if tasks is None or tasks.max_validation is not None:
        return
    remedy = (
        "give tasks.max_validation the number of validation images per task; a fifth of the "
        "training images is then held out of every training"
    )
    lack = "on validation images, and the study holds none out"
    if chooses:
        fault = f"it chooses values {lack}"
        yield StudyProblem(field=f"merge[{chooses[0]}]", fault=fault, remedy=remedy)
    if evaluation is not None and evaluation.joint == "calibrated":
        fault = f"'calibrated' fits a temperature per head {lack}"
        remedy = f"use 'plain', or {remedy}"
        yield StudyProblem(field="evaluation.joint", fault=fault, remedy=remedy)


def check_steps(
    merges: Mapping[int, Merge], *, finetune: Finetune | None, is_searched: bool
) -> Iterator[StudyProblem]:
    """Yields words that are no rule, studies with nothing to choose from, and shared choices.

    Args:
        merges: The study's valid entries, by position in the file.
        finetune: The study's section; None if that is invalid.
        is_searched: Whether the study searches its hyperparameters.
    """
    for index, merge in merges.items():
        field, rule = f"merge[{index}].{STEPS}", merge.step_rule
        if rule is None:
            continue
        if merge.tuned and merge.tuned_by != "loss":
            remedy = f"an entry with `{STEPS}: {rule}` chooses by loss; leave the field out"
            yield wrong_value(f"merge[{index}].tuned_by", merge.tuned_by, remedy=remedy)
        if merge.tuned and merge.tuned_over != "group":
            remedy = (
                f"an entry with `{STEPS}: {rule}` chooses for each group alone; leave the field out"
            )
            yield wrong_value(f"merge[{index}].tuned_over", merge.tuned_over, remedy=remedy)
        if finetune is None:
            continue
        if finetune.design == "random" or is_searched:
            what = "a search" if is_searched else "design: random"
            yield wrong_value(
                field,
                rule,
                remedy=f"steps are chosen among numbers of steps that all tasks have, and {what} "
                "has none; use finetune.axes with another design",
            )
        elif not _has_snapshots(finetune):
            yield wrong_value(
                field,
                rule,
                remedy="steps are chosen among two or more numbers of steps; list them, as "
                "`finetune: {axes: {steps: [20, 40, 80]}}`",
            )


def _check_values(field: str, *, merge: Merge) -> Iterator[StudyProblem]:
    params_class = merge.card.params
    ranges = {each.name: range_of(each) for each in fields(params_class)}
    sizes = []
    for name, values in merge.tuned.items():
        at = f"{field}.{name}"
        if name not in ranges:
            (problem,) = problems_of(params_class, values={name: values})
            fault = f"unknown parameter of {merge.name}"
            yield StudyProblem(field=at, fault=fault, remedy=problem.allowed)
        elif not isinstance(ranges[name], Number | Count):
            remedy = f"only numbers are tuned; expected {ranges[name].allowed}"
            yield wrong_value(at, {TUNE: values}, remedy=remedy)
        elif not isinstance(values, list) or not values:
            yield wrong_value(f"{at}.{TUNE}", values, remedy=f"expected values, as {_EXAMPLE}")
        else:
            sizes.append(len(values))
            for place, value in enumerate(values):
                at_value = f"{at}.{TUNE}[{place}]"
                if not ranges[name].accepts(value):
                    yield wrong_value(at_value, value, remedy=f"expected {ranges[name].allowed}")
                elif value in values[:place]:
                    yield wrong_value(at_value, value, remedy="list every value once")
    if prod(sizes) > MAX_POINTS:
        fault = f"{' x '.join(map(str, sizes))} values are {counted(prod(sizes), 'combination')}"
        remedy = f"a merge tries at most {MAX_POINTS}; leave some values out"
        yield StudyProblem(field=field, fault=fault, remedy=remedy)


def _has_snapshots(finetune: Finetune) -> bool:
    if finetune.design == "listed":
        steps = {point.get(STEPS, finetune.defaults.steps) for point in finetune.points}
    else:
        steps = set(finetune.axes.steps)
    return len(steps) > 1

"""Checks the section `search`: its space, its budget, halving, and sections that exclude it."""

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import get_type_hints

from merge.catalogue import CARDS
from orchestrator.study.backbone import BackboneSection
from orchestrator.study.checks.counts import check_num_candidates
from orchestrator.study.checks.finetune import check_finetune
from orchestrator.study.finetune import Finetune, FinetuneAxes, point_of
from orchestrator.study.problems import StudyProblem, suggest, wrong_value
from orchestrator.study.schema import Baselines, Groups, Merge
from orchestrator.study.search import Search, SearchRange
from orchestrator.study.tasks import Tasks
from workers.specs.hyperparameters import Hyperparameters

_TYPES = get_type_hints(Hyperparameters)
_OF_MERGES = {"method", *(field.name for card in CARDS.values() for field in fields(card.params))}
_MIN_RUNGS = 2


def check_search(
    search: Search,
    *,
    finetune: Finetune | None,
    backbone: BackboneSection | None,
    groups: Groups | None,
    tasks: Tasks | None,
    merges: Mapping[int, Merge],
    baselines: Baselines | None,
) -> Iterator[StudyProblem]:
    """Yields the problems of a section that is valid by itself.

    Args:
        search: The section.
        finetune: The study's section; None if that is invalid, as for the others.
        backbone: The study's section.
        groups: The study's section.
        tasks: The study's section.
        merges: The study's valid merges, by position in the file.
        baselines: The study's section.
    """
    if baselines is not None and baselines.multi_task is not None:
        yield StudyProblem(
            field="baselines.multi_task",
            fault="a study with a search has no setting to train it at before the search has ended",
            remedy="leave it out, and add it to a study with the winner's hyperparameters",
        )
    yield from _check_others(finetune=finetune, backbone=backbone, groups=groups, tasks=tasks)
    space = [problem for name, each in search.space.items() for problem in _check(name, each)]
    yield from space
    yield from _check_per_task(search)
    yield from _check_algorithm(search)
    yield from check_num_candidates(search, num_tasks=len(tasks.all_names) if tasks else 1)
    yield from _check_prior(search, finetune=finetune, backbone=backbone)
    if finetune is not None and not space:
        yield from _check_together(search, finetune=finetune, merges=merges)
        yield from _check_halving(search, finetune=finetune)
        yield from _check_budget(search, finetune=finetune, tasks=tasks)


def _check_others(
    *,
    finetune: Finetune | None,
    backbone: BackboneSection | None,
    groups: Groups | None,
    tasks: Tasks | None,
) -> Iterator[StudyProblem]:
    """Yields the sections with axes of a study, where the search has the axes."""
    varying = {
        "finetune.axes": finetune is not None and finetune.axes.varied(),
        "finetune.points": finetune is not None and finetune.points,
        "finetune.design": finetune is not None and finetune.design != "one-factor",
        "backbone.axes": backbone is not None and backbone.axes.varied(),
        "groups.sizes": groups is not None and groups.sizes,
        "groups.pool": groups is not None and groups.pool,
    }
    for field, is_given in varying.items():
        if is_given:
            yield StudyProblem(
                field=field,
                fault="a study with a search varies nothing else",
                remedy="leave this field out, and give hyperparameters a range in search.space; or "
                "leave `search` out",
            )
    if tasks is not None and tasks.max_validation is None:
        yield StudyProblem(
            field="search",
            fault="it compares candidates on validation images, and the study holds none out",
            remedy="give tasks.max_validation the number of validation images per task; a fifth of "
            "the training images is then held out of every training",
        )


def _check(name: str, values: SearchRange) -> Iterator[StudyProblem]:
    """Yields the problems of one hyperparameter's range."""
    field = f"search.space.{name}"
    if name not in FinetuneAxes.model_fields:
        remedy = suggest(name, known=FinetuneAxes.model_fields, kind="hyperparameters")
        if name.rpartition(".")[2] in _OF_MERGES:
            remedy = (
                "methods and their parameters are searched in `merge`, for every candidate; give "
                "values to try there, as {method: ties, scaling: {tune: [0.3, 0.6, 1.0]}}"
            )
        yield StudyProblem(field=field, fault="unknown hyperparameter", remedy=remedy)
        return
    is_number, is_whole = _TYPES[name] in {int, float}, _TYPES[name] is int
    (form,) = (key for key, each in values if each is not None)
    if not is_number and form != "choice":
        remedy = "only numbers have bounds; give its values, as {choice: [...]}"
        yield StudyProblem(field=field, fault=f"`{form}` is not allowed", remedy=remedy)
    elif is_whole and form in {"log", "uniform"}:
        remedy = "it is a whole number; expected {int: [16, 256]} or {choice: [16, 64]}"
        yield StudyProblem(field=field, fault=f"`{form}` is not allowed", remedy=remedy)
    elif is_number and not is_whole and form == "int":
        remedy = "it is no whole number; expected {log: [...]}, {uniform: [...]} or {choice: [...]}"
        yield StudyProblem(field=field, fault="`int` is not allowed", remedy=remedy)
    else:
        for place, value in enumerate(values.extremes):
            try:
                point_of({name: value})
            except ValueError:
                remedy = f"expected values that finetune.axes.{name} may have"
                yield wrong_value(f"{field}.{form}[{place}]", value, remedy=remedy)


def _check_per_task(search: Search) -> Iterator[StudyProblem]:
    for place, name in enumerate(search.per_task):
        if name not in search.space:
            remedy = suggest(name, known=search.space, kind="names in search.space")
            yield wrong_value(f"search.per_task[{place}]", name, remedy=remedy)
        elif name == "linearised":
            remedy = "the experts of a merge must be all linearised or all not; leave it out here"
            yield wrong_value(f"search.per_task[{place}]", name, remedy=remedy)


def _check_algorithm(search: Search) -> Iterator[StudyProblem]:
    field = "search.algorithm"
    if search.algorithm in {"tpe", "gp"} and importlib.util.find_spec("optuna") is None:
        yield wrong_value(
            field,
            search.algorithm,
            remedy='it needs the package optuna; install it with pip install "mergesweep[search]", '
            "or take random or grid",
        )
    endless = [name for name, each in search.space.items() if each.log or each.uniform]
    if search.algorithm == "grid" and endless:
        yield wrong_value(
            field,
            search.algorithm,
            remedy=f"a grid needs listed values, and {', '.join(endless)} has none; give "
            "{choice: [...]}, or take random",
        )


def _check_prior(
    search: Search, *, finetune: Finetune | None, backbone: BackboneSection | None
) -> Iterator[StudyProblem]:
    """Yields the reasons why the theory has no prediction of the study's merges."""
    if search.prior is None:
        return
    has_adapters = finetune is not None and finetune.lora.rank > 0
    is_linearised = finetune is not None and finetune.linearised
    faults = {
        "a grid has no random candidates": search.algorithm == "grid",
        "it has no constants of linearised experts": is_linearised or "linearised" in search.space,
        "it has no constants of adapters": has_adapters or "lora_rank" in search.space,
        "its constants are those of one augmentation": "augment" in search.space,
        "its constants are measured before anything is trained, and the base is pretrained": (
            backbone is not None and backbone.pretrain is not None
        ),
    }
    for fault, is_given in faults.items():
        if is_given:
            remedy = "leave the prior out, or what it does not go with"
            yield StudyProblem(field="search.prior", fault=fault, remedy=remedy)


def _check_together(
    search: Search, *, finetune: Finetune, merges: Mapping[int, Merge]
) -> Iterator[StudyProblem]:
    """Yields the problems between hyperparameters, as for a grid of all bounds and choices."""
    axes = FinetuneAxes.model_validate(
        {name: values.extremes for name, values in search.space.items()}
    )
    grid = finetune.model_copy(update={"design": "grid", "axes": axes, "points": []})
    for problem in check_finetune(grid, merges=merges, base_axes=()):
        field = problem.field.replace("finetune.axes.", "search.space.")
        yield replace(problem, field=field)


def _check_halving(search: Search, *, finetune: Finetune) -> Iterator[StudyProblem]:
    if search.halving is None:
        return
    field, most_steps = "search.halving", finetune.defaults.steps
    if "steps" in search.space:
        yield StudyProblem(
            field=field,
            fault="search.space has steps too, and halving decides about the steps",
            remedy="leave one of them out; with halving, the winner may be the merge after the "
            "steps of any rung",
        )
    elif len(search.rungs(most_steps)) < _MIN_RUNGS:
        factor = search.halving.factor
        name, most = "first", most_steps // factor
        if most < 1:
            name, most = "factor", most_steps // search.halving.first
        yield wrong_value(
            f"{field}.{name}",
            getattr(search.halving, name),
            remedy=f"no candidate would be stopped before finetune.defaults.steps, {most_steps}; "
            f"expected {most} or less",
        )
    for name, value in (
        ("schedule", finetune.schedule),
        ("average_weights", finetune.average_weights.mode),
    ):
        found = search.space[name].extremes if name in search.space else [value]
        allowed = {"constant"} if name == "schedule" else {"none", "ema"}
        for each in (each for each in found if each not in allowed):
            yield StudyProblem(
                field=field,
                fault=f"`{name}: {each}` depends on the number of steps, so that a candidate would "
                "be trained from the start at every rung",
                remedy=f"use {' or '.join(sorted(allowed))}, or leave halving out",
            )


def _check_budget(
    search: Search, *, finetune: Finetune, tasks: Tasks | None
) -> Iterator[StudyProblem]:
    budget, most_steps = search.budget, finetune.defaults.steps
    if all(limit is None for _, limit in budget):
        remedy = "give it one or more of " + ", ".join(f"`{name}`" for name, _ in budget)
        yield StudyProblem(field="search.budget", fault="it has no limit", remedy=remedy)
    steps = search.space["steps"].extremes if "steps" in search.space else [most_steps]
    if budget.steps is not None and tasks is not None:
        least = len(tasks.all_names) * max(steps)
        if budget.steps < least:
            remedy = (
                f"one candidate takes {max(steps):,} steps on each of {len(tasks.all_names)} "
                f"tasks; expected {least:,} or more"
            )
            yield wrong_value("search.budget.steps", budget.steps, remedy=remedy)

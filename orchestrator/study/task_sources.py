"""Finds the tasks of a study and their files: tasks of the catalogues, and the study's own."""

import re
from collections.abc import Iterator, Mapping

from eval.counts import counted
from eval.data_root import data_root
from eval.own.files import TRAIN_NAME, OwnFiles, OwnTaskError
from eval.own.task import describe_own_task
from eval.suites import find_task, task_names
from eval.task_source import TaskSource
from eval.user_paths import NoHomeError, expanded
from orchestrator.study.problems import StudyProblem, shown, wrong_value
from orchestrator.study.schema import Study
from orchestrator.study.tasks import OwnTask, Tasks
from workers.sampling.data_selection import num_held_out

OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""The names that a study may give to its own tasks."""
RESERVED_NAMES = ("macro", "union")
"""Values of the tables' column `task` that are no tasks."""


def task_sources(study: Study, *, recorded: Mapping[str, TaskSource]) -> dict[str, TaskSource]:
    """Returns the study's tasks by name, in its order, then further tasks of its pretraining.

    Args:
        study: A checked study.
        recorded: Own tasks as an earlier plan of this study recorded them. Their files are not
            read, so that a study opens on machines without the files.

    Raises:
        OwnTaskError: The files of an own task no longer make a task.
    """
    own, root = study.tasks.own, study.tasks.root
    pretrain = study.backbone.pretrain
    names = (*study.task_names, *(pretrain.task_names if pretrain else ()))
    return {
        name: _own_source(name, own[name], root=root, recorded=recorded.get(name))
        if name in own
        else TaskSource(task=find_task(name), root=root)
        for name in dict.fromkeys(names)
    }


def own_sources(
    tasks: Tasks, *, recorded: Mapping[str, TaskSource]
) -> tuple[dict[str, TaskSource], list[StudyProblem]]:
    """Reads the files of a study's own tasks, which may take a second for each 0.7 GB.

    Returns:
        The tasks that can be used, by name; the problems of names, files, splits and classes.
    """
    sources: dict[str, TaskSource] = {}
    problems = [*_check_root(tasks), *_check_names(tasks)]
    for name, own in tasks.own.items():
        field = f"tasks.own.{name}"
        if faults := list(_check_fields(field, own=own)):
            problems += faults
            continue
        try:
            source = _own_source(name, own, root=tasks.root, recorded=recorded.get(name))
        except OwnTaskError as error:
            fault = f"{shown(own.place)} is not a usable task"
            problems += [StudyProblem(field=field, fault=fault, remedy=e) for e in error.problems]
        else:
            sources[name] = source
            problems += _check_held_out(tasks, source=source)
    return sources, problems


def _check_names(tasks: Tasks) -> Iterator[StudyProblem]:
    holders = dict.fromkeys(task_names(), "a task of the catalogue has this name")
    holders |= dict.fromkeys(RESERVED_NAMES, "the tables' means have this name")
    taken = {name.lower(): name for name in holders}
    for name in tasks.own:
        field = f"tasks.own.{name}"
        if OWN_NAME.fullmatch(name) is None:
            remedy = "expected 1 to 40 letters, digits, '_' or '-', the first a letter or digit"
            yield wrong_value(field, name, remedy=remedy)
        other = taken.setdefault(name.lower(), name)
        if other in holders:
            also = "" if other == name else ", apart from capitals"
            yield wrong_value(field, name, remedy=f"{holders[other]}{also}; choose another")
        holders.setdefault(name, f"the task {name!r} of this study has this name")


def _check_held_out(tasks: Tasks, *, source: TaskSource) -> Iterator[StudyProblem]:
    num = source.task.num_train
    images = counted(num, "training image")
    fault = f"no image can be held out of the {images} of task {source.task.name!r}"
    if tasks.evaluate_on == "validation":
        held_out = num_held_out(num)
        num -= held_out
        if held_out == 0:
            remedy = "expected 3 or more training images, or `evaluate_on: test`"
            yield StudyProblem(field="tasks.evaluate_on", fault=fault, remedy=remedy)
            return
    if tasks.max_validation is not None and num_held_out(num) == 0:
        remedy = "expected more training images, or no `max_validation`"
        yield StudyProblem(field="tasks.max_validation", fault=fault, remedy=remedy)


def _check_root(tasks: Tasks) -> Iterator[StudyProblem]:
    if tasks.root is not None:
        try:
            data_root(tasks.root)
        except NoHomeError as error:
            yield wrong_value("tasks.root", tasks.root, remedy=str(error))


def _check_fields(field: str, *, own: OwnTask) -> Iterator[StudyProblem]:
    """Yields the problems between the fields of one task."""
    places = [name for name in ("folder", "parquet", "hub") if getattr(own, name) is not None]
    if len(places) != 1:
        fault = f"{' and '.join(places)} are given" if places else "it has no place"
        remedy = "give exactly one of folder, parquet and hub"
        yield StudyProblem(field=field, fault=fault, remedy=remedy)
    remedy = "give hub and revision together: the commit fixes which files are used"
    if own.hub is not None and own.revision is None:
        yield StudyProblem(field=f"{field}.revision", fault="missing", remedy=remedy)
    if own.hub is None and own.revision is not None:
        yield wrong_value(f"{field}.revision", own.revision, remedy=remedy)
    for name in ("image", "label", "classes") if own.folder is not None else ():
        if name in own.model_fields_set:
            remedy = f"leave out {name}: a folder takes labels from the names of its subfolders"
            yield wrong_value(f"{field}.{name}", getattr(own, name), remedy=remedy)
    if own.test is not None and own.test == (own.train or TRAIN_NAME):
        remedy = "the training split has this name; give the name of another folder or file"
        yield wrong_value(f"{field}.test", own.test, remedy=remedy)


def _own_source(
    name: str, own: OwnTask, *, root: str | None, recorded: TaskSource | None
) -> TaskSource:
    if recorded is not None:
        return recorded
    try:
        files, folder = _files(own), data_root(root)
    except NoHomeError as error:
        raise OwnTaskError(name, problems=[str(error)]) from error
    task = describe_own_task(name, files=files, root=folder)
    return TaskSource(task=task, files=files, root=root)


def _files(own: OwnTask) -> OwnFiles:
    is_hub = own.hub is not None
    return OwnFiles(
        layout="hub" if is_hub else "folder" if own.folder is not None else "tables",
        place=own.place if is_hub else str(expanded(own.place).resolve()),
        revision=own.revision,
        image=own.image,
        label=own.label,
        classes=tuple(own.classes or ()),
        channels=own.channels,
        train=own.train,
        test=own.test,
        ignore=tuple(own.ignore),
    )

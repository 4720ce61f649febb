"""Finds the tasks of a study and their files: tasks of the catalogues, and the study's own."""

import re
from collections.abc import Iterator, Mapping

from eval.data_root import data_root
from eval.own.files import OwnFiles, OwnTaskError
from eval.own.task import describe_own_task
from eval.suites import find_task, task_names
from eval.task_source import TaskSource
from eval.user_paths import NoHomeError, expanded
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import Study
from orchestrator.study.tasks import OwnTask, Tasks
from workers.sampling.data_selection import num_held_out

OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")
"""The names that a study may give to its own tasks."""


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


def check_own_tasks(tasks: Tasks, *, recorded: Mapping[str, TaskSource]) -> Iterator[StudyProblem]:
    """Yields the problems of a study's own tasks: names, files, splits and classes."""
    taken = set(task_names())
    yield from _check_root(tasks)
    for name, own in tasks.own.items():
        field = f"tasks.own.{name}"
        if OWN_NAME.fullmatch(name) is None:
            remedy = "expected 1 to 40 lower-case letters, digits or '_', not starting with '_'"
            yield wrong_value(field, name, remedy=remedy)
        if name in taken:
            remedy = "a task of the catalogue has this name; choose another"
            yield wrong_value(field, name, remedy=remedy)
        try:
            source = _own_source(name, own, root=tasks.root, recorded=recorded.get(name))
        except OwnTaskError as error:
            fault = f"{own.place!r} is not a usable task"
            for problem in error.problems:
                yield StudyProblem(field=field, fault=fault, remedy=problem)
        else:
            num = source.task.num_train
            if tasks.evaluate_on == "validation" and num_held_out(num) == 0:
                fault = f"no image can be held out of the {num} training images of task {name!r}"
                remedy = "expected 3 or more training images, or `evaluate_on: test`"
                yield StudyProblem(field="tasks.evaluate_on", fault=fault, remedy=remedy)


def _check_root(tasks: Tasks) -> Iterator[StudyProblem]:
    if tasks.root is not None:
        try:
            data_root(tasks.root)
        except NoHomeError as error:
            yield wrong_value("tasks.root", tasks.root, remedy=str(error))


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
    )

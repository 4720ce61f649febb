"""A study's tasks with their files: those of the catalogues, and its own."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from eval.data_root import data_root
from eval.own.files import OwnFiles, OwnTaskError
from eval.own.task import describe_own_task
from eval.suites import find_task, task_names
from eval.task_source import TaskSource
from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Study
from orchestrator.study.tasks import OwnTask, Tasks

OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")
"""What a study may call a task of its own."""


def task_sources(study: Study, *, recorded: Mapping[str, TaskSource]) -> dict[str, TaskSource]:
    """Returns the study's tasks by name in its order, then those that are only pretrained on.

    Args:
        study: A checked study.
        recorded: Own tasks as a plan of this very study found them; their files are not looked at,
            so that a study can be opened where they are not.

    Raises:
        OwnTaskError: Files of the study's own do not make a task any more.
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
    """Yields what is wrong with a study's own tasks: names, files, splits, classes."""
    taken = set(task_names())
    for name, own in tasks.own.items():
        field = f"tasks.own.{name}"
        if OWN_NAME.fullmatch(name) is None:
            allowed = "1 to 40 lower-case letters, digits and _, the first no _"
            yield StudyProblem(field=field, value=repr(name), allowed=allowed)
        if name in taken:
            allowed = "a task of the catalogue has this name; take another"
            yield StudyProblem(field=field, value=repr(name), allowed=allowed)
        try:
            _own_source(name, own, root=tasks.root, recorded=recorded.get(name))
        except OwnTaskError as error:
            for problem in error.problems:
                yield StudyProblem(field=field, value=repr(own.place), allowed=problem)


def _own_source(
    name: str, own: OwnTask, *, root: str | None, recorded: TaskSource | None
) -> TaskSource:
    if recorded is not None:
        return recorded
    files = _files(own)
    task = describe_own_task(name, files=files, root=data_root(root))
    return TaskSource(task=task, files=files, root=root)


def _files(own: OwnTask) -> OwnFiles:
    is_hub = own.hub is not None
    return OwnFiles(
        layout="hub" if is_hub else "folder" if own.folder is not None else "tables",
        place=own.place if is_hub else str(Path(own.place).expanduser().resolve()),
        revision=own.revision,
        image=own.image,
        label=own.label,
        classes=tuple(own.classes or ()),
        channels=own.channels,
    )

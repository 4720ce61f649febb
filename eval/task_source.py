"""A task together with the place of its files, which is all that a worker needs to read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from eval.own.files import OwnFiles
from eval.suites import find_task
from eval.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """A task and the place of its files. The place is no part of any id."""

    task: Task
    files: OwnFiles | None = None
    """The files of a study's own task; None for an embedded or published task."""
    root: str | None = None
    """The data root; None if each node has its own (`eval.data_root`)."""


def source_to_json(source: TaskSource) -> dict[str, Any]:
    """Returns a source as plain values, for `plan.json`."""
    own = None if source.files is None else {"task": asdict(source.task), **source.files.to_json()}
    return {"root": source.root, "own": own}


def source_from_json(name: str, values: Mapping[str, Any] | None) -> TaskSource:
    """Returns the source of a task from plain values.

    Args:
        name: The task's name.
        values: The result of `source_to_json`; None for a plan of a release without sources.

    Raises:
        UnknownTaskError: This release has no task of this name.
    """
    if values is None or values["own"] is None:
        return TaskSource(task=find_task(name), root=values["root"] if values else None)
    own = dict(values["own"])
    task = own.pop("task")
    return TaskSource(
        task=Task(**{**task, **{name: tuple(task[name]) for name in ("classes", "templates")}}),
        files=OwnFiles(
            **{**own, **{name: tuple(own.get(name, ())) for name in ("classes", "ignore")}}
        ),
        root=values["root"],
    )

"""A task together with where its images lie: what a worker needs to read them."""

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
    """Names a task and its files; no part of what its images are identified by."""

    task: Task
    files: OwnFiles | None = None
    """A study's own files; None for a task of the catalogues."""
    root: str | None = None
    """The data root; None where each node has its own (`eval.data_root`)."""


def source_to_json(source: TaskSource) -> dict[str, Any]:
    """Returns a source as plain values."""
    own = None if source.files is None else {"task": asdict(source.task), **asdict(source.files)}
    return {"root": source.root, "own": own}


def source_from_json(name: str, values: Mapping[str, Any] | None) -> TaskSource:
    """Returns the source that `source_to_json` gave; None stands for the catalogue's own.

    Raises:
        UnknownTaskError: It is of a catalogue that this release does not have.
    """
    if values is None or values["own"] is None:
        return TaskSource(task=find_task(name), root=values["root"] if values else None)
    own = dict(values["own"])
    task = own.pop("task")
    return TaskSource(
        task=Task(**{**task, **{name: tuple(task[name]) for name in ("classes", "templates")}}),
        files=OwnFiles(**{**own, "classes": tuple(own["classes"])}),
        root=values["root"],
    )

"""Lists a task's labels before its images are read, as far as that takes no image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eval.data_root import data_root
from eval.embedded.index import embedded_labels
from eval.own.files import MAX_NAMED, LeftOut, OwnTaskError
from eval.own.task import list_own_files
from eval.suites import is_embedded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from eval.own.files import FileListing
    from eval.task_source import TaskSource
    from eval.tasks import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedData:
    """The labels of a task, and the files that it does not use."""

    labels: Mapping[str, NDArray[np.int64]] | None
    """Labels of ``train`` and ``test`` in the order of the task's image sources; None if they are
    not known before the images are read."""
    left_out: tuple[str, ...] = ()
    """For each reason to leave files out, a text with their number and the reason."""
    remarks: tuple[str, ...] = ()
    """Sentences about anything else in the files that a user should look at."""


def list_data(source: TaskSource) -> ListedData:
    """Lists the labels of a task.

    Labels of embedded tasks are known everywhere, and labels of own tasks where their files are, if
    they are still the files of the task. Labels of published tasks are known once the images are
    prepared: their readers load torch.
    """
    task = source.task
    if source.files is None:
        return ListedData(labels=embedded_labels(task) if is_embedded(task.name) else None)
    try:
        listing = list_own_files(task.name, files=source.files, root=data_root(source.root))
    except (OwnTaskError, OSError):
        return ListedData(labels=None)
    labels = {
        split: np.asarray(listing.labels[split], dtype=np.int64) for split in ("train", "test")
    }
    if not _is_of(task, listing=listing):
        return ListedData(labels=None)
    return ListedData(
        labels=labels,
        left_out=_left_out(listing),
        remarks=listing.remarks,
    )


def _left_out(listing: FileListing) -> tuple[str, ...]:
    """Returns a text for each reason, about the files of all splits."""
    by_reason: dict[str, list[LeftOut]] = {}
    for each in itertools.chain.from_iterable(listing.left_out.values()):
        by_reason.setdefault(each.reason, []).append(each)
    return tuple(
        str(
            LeftOut(
                reason=reason,
                num_entries=sum(each.num_entries for each in found),
                examples=tuple(name for each in found for name in each.examples)[:MAX_NAMED],
            )
        )
        for reason, found in by_reason.items()
    )


def _is_of(task: Task, *, listing: FileListing) -> bool:
    """Returns whether a listing has the classes and the numbers of images of a task."""
    sizes = [len(listing.labels[split]) for split in ("train", "test")]
    return listing.classes == task.classes and sizes == [task.num_train, task.num_test]

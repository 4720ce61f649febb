"""Opens the images of any task: embedded, published, or a study's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.data_root import data_root
from eval.embedded.build import compose_splits
from eval.images.files import FileSource
from eval.images.source import ImageSourceError
from eval.own.files import OwnFiles, OwnTaskError, describe, list_folders
from eval.tasks import is_embedded

if TYPE_CHECKING:
    from eval.images.source import ImageSource
    from eval.task_source import TaskSource
    from eval.tasks import Task


def open_sources(source: TaskSource) -> dict[str, ImageSource]:
    """Opens both splits of a task, at their own sizes and in their own order.

    Embedded tasks are composed, which takes seconds; of the others only labels are read. A study's
    own files are hashed again: what they are enters the ids of all that is made of them.

    Returns:
        ``train`` and ``test``.

    Raises:
        ImageSourceError: The files are missing, damaged, or not those that were planned for.
    """
    task, root = source.task, data_root(source.root)
    if source.files is not None:
        return _open_own(task, files=source.files, root=root)
    if is_embedded(task.name):
        return dict(compose_splits(task.name))
    from eval.vision.published import open_vision  # noqa: PLC0415 loads torchvision

    return dict(open_vision(task.name, root=root))


def _open_own(task: Task, *, files: OwnFiles, root: Path) -> dict[str, ImageSource]:
    try:
        found = describe(task.name, files=files, root=root)
        if found != task:
            raise ImageSourceError(
                f"task {task.name!r}: the files at {files.place} are not those that were planned "
                f"for: {found.num_train} training and {found.num_test} test images of "
                f"{found.num_classes} classes, fingerprint {found.fingerprint[:16]}, not "
                f"{task.num_train}, {task.num_test}, {task.num_classes}, {task.fingerprint[:16]}; "
                "plan the study again"
            )
        if files.layout == "folder":
            return _open_folders(task, files=files)
        return _open_tables(task, files=files, root=root)
    except OwnTaskError as error:
        raise ImageSourceError(str(error)) from error


def _open_folders(task: Task, *, files: OwnFiles) -> dict[str, ImageSource]:
    listed = list_folders(task.name, directory=Path(files.place))
    return {
        split: FileSource(
            paths=[path for _, path in listed.paths[split]],
            labels=np.asarray(listed.labels[split], dtype=np.int64),
            channels=task.channels,
        )
        for split in ("train", "test")
    }


def _open_tables(task: Task, *, files: OwnFiles, root: Path) -> dict[str, ImageSource]:
    from eval.images.tables import TableSource  # noqa: PLC0415 loads Arrow's Parquet
    from eval.own.tables import list_tables  # noqa: PLC0415

    listed = list_tables(task.name, files=files, root=root)
    return {
        split: TableSource(
            [path for _, path in listed.paths[split]],
            column=files.image,
            labels=np.asarray(listed.labels[split], dtype=np.int64),
            channels=task.channels,
        )
        for split in ("train", "test")
    }

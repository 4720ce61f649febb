"""Opens the images of a study's own task, and refuses files that changed since the plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.images.file_source import FileSource
from eval.images.protocol import ImageSourceError
from eval.own.files import OwnTaskError
from eval.own.folders import list_folders
from eval.own.task import describe_own_task

if TYPE_CHECKING:
    from eval.images.protocol import ImageSource
    from eval.own.files import OwnFiles
    from eval.tasks import Task


def open_own_images(task: Task, *, files: OwnFiles, root: Path) -> dict[str, ImageSource]:
    """Opens both splits of an own task.

    The files are hashed again, because their content enters the ids of all artifacts that are made
    from them.

    Returns:
        ``train`` and ``test``.

    Raises:
        ImageSourceError: Files are missing or damaged, or changed since the study was planned.
    """
    try:
        found = describe_own_task(task.name, files=files, root=root)
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
    listing = list_folders(task.name, directory=Path(files.place))
    return {
        split: FileSource(
            paths=[path for _, path in listing.paths[split]],
            labels=np.asarray(listing.labels[split], dtype=np.int64),
            channels=task.channels,
        )
        for split in ("train", "test")
    }


def _open_tables(task: Task, *, files: OwnFiles, root: Path) -> dict[str, ImageSource]:
    from eval.images.table_source import TableSource  # noqa: PLC0415 loads Arrow's Parquet
    from eval.own.tables import list_tables  # noqa: PLC0415

    listing = list_tables(task.name, files=files, root=root)
    return {
        split: TableSource(
            [path for _, path in listing.paths[split]],
            column=files.image,
            labels=np.asarray(listing.labels[split], dtype=np.int64),
            channels=task.channels,
        )
        for split in ("train", "test")
    }

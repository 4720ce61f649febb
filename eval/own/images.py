"""Opens the images of a study's own task, and refuses files that changed since the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eval.images.file_source import FileSource
from eval.images.protocol import ImageSourceError
from eval.own.files import OwnTaskError
from eval.own.task import list_own_files, task_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
        listing = list_own_files(task.name, files=files, root=root)
        found = task_of(task.name, files=files, listing=listing)
        if found != task:
            raise ImageSourceError(
                f"task {task.name!r}: the files at {files.place} are not those that were planned "
                f"for: {found.num_train} training and {found.num_test} test images of "
                f"{found.num_classes} classes, fingerprint {found.fingerprint[:16]}, not "
                f"{task.num_train}, {task.num_test}, {task.num_classes}, {task.fingerprint[:16]}; "
                "plan the study again"
            )
    except OwnTaskError as error:
        raise ImageSourceError(str(error)) from error
    return {
        split: _open(
            [path for _, path in listing.paths[split]],
            labels=np.asarray(listing.labels[split], dtype=np.int64),
            files=files,
        )
        for split in ("train", "test")
    }


def _open(paths: Sequence[Path], *, labels: NDArray[np.int64], files: OwnFiles) -> ImageSource:
    if files.layout == "folder":
        return FileSource(paths=paths, labels=labels, channels=files.channels)
    from eval.images.table_source import TableSource  # noqa: PLC0415 loads Arrow's Parquet

    return TableSource(paths, column=files.image, labels=labels, channels=files.channels)

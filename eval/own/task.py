"""Makes a `Task` out of a user's files, without opening an image."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.counts import first_names
from eval.digests import sha256_of_file
from eval.file_tree import printable
from eval.own.files import CHOICES, FileListing, OwnFiles, OwnTaskError
from eval.own.folders import list_folders
from eval.tasks import Task, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OWN_VERSION = 1
"""Part of every own task's fingerprint. Raise it when the same files are read as other images or
labels."""


def describe_own_task(name: str, *, files: OwnFiles, root: Path) -> Task:
    """Returns the task that files make.

    The fingerprint of folders and tables is taken over all their bytes, which are read once (0.7 GB
    a second of CPU). The fingerprint of a data set on the hub is taken over its name and revision;
    of its files only the labels are read.

    Args:
        name: The task's name in the study.
        files: Where the files are and how to read them.
        root: The data root, where snapshots of the hub lie.

    Raises:
        OwnTaskError: Files are missing or do not make a task; the error lists every problem.
    """
    return task_of(name, files=files, listing=list_own_files(name, files=files, root=root))


def task_of(name: str, *, files: OwnFiles, listing: FileListing) -> Task:
    """Returns the task that listed files make; see `describe_own_task`."""
    problems = _class_problems(listing)
    if problems:
        raise OwnTaskError(name, problems=[*problems, *listing.remarks])
    fields = files.to_json()
    place, chosen = fields.pop("place"), {key: fields.pop(key, None) for key in CHOICES}
    content: object = place
    if files.layout != "hub":
        content = _digests(name, paths=listing.paths)
    elif any(chosen.values()):
        content = [place, chosen]
    by_name = ["labels by name"] if listing.is_renumbered else []
    return Task(
        name=name,
        classes=listing.classes,
        num_train=len(listing.labels["train"]),
        num_test=len(listing.labels["test"]),
        channels=files.channels,
        stands_in_for="itself",
        material="own",
        licence="the study's own",
        fingerprint=fingerprint_of([OWN_VERSION, fields, content, listing.classes, *by_name]),
    )


def list_own_files(name: str, *, files: OwnFiles, root: Path) -> FileListing:
    """Lists a task's files with their labels, and the files that are left out with the reasons.

    No image is opened. Of tables, the labels are read.

    Raises:
        OwnTaskError: Files are missing or do not make a task; the error lists every problem.
    """
    try:
        if files.layout == "folder":
            listing = list_folders(name, files=files)
        else:
            from eval.own.tables import list_tables  # noqa: PLC0415 loads Arrow, which folders do not need

            listing = list_tables(name, files=files, root=root)
    except OSError as error:
        problem = f"{error.filename or files.place} cannot be read: {error.strerror}"
        raise OwnTaskError(name, problems=[problem]) from error
    return listing


def _class_problems(listing: FileListing) -> list[str]:
    problems = [
        f"no image in its {split} split" for split, labels in listing.labels.items() if not labels
    ]
    if problems:
        return problems
    classes = listing.classes
    if len(classes) < 2:  # noqa: PLR2004 a classifier chooses between two or more
        problems.append(f"it has {len(classes)} class, and at least two are needed")
    for split in listing.labels:
        counts = listing.class_counts(split)
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        if empty:
            problems.append(f"no image of class {first_names(empty)} in its {split} split")
    return problems


def _digests(name: str, *, paths: Mapping[str, Sequence[tuple[str, Path]]]) -> list[Any]:
    """Returns split, name, size and sha256 of each file.

    Raises:
        OwnTaskError: Some files cannot be read; the error names the first ones.
    """
    digests, problems = [], []
    for split in sorted(paths):
        for file_name, path in paths[split]:
            try:
                digests.append([split, file_name, *_size_and_digest(path)])
            except OSError as error:
                problems.append(f"{printable(path)} cannot be read: {error.strerror}")
    if problems:
        raise OwnTaskError(name, problems=problems)
    return digests


def _size_and_digest(path: Path) -> tuple[int, str]:
    status = path.stat()
    return status.st_size, _digest(str(path), status.st_size, status.st_mtime_ns)


@cache
def _digest(path: str, _size: int, _mtime_ns: int) -> str:
    """Hashes a file once per process, although a process makes a study's plan several times."""
    return sha256_of_file(Path(path))

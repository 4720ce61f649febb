"""Makes a `Task` out of a user's files, without opening an image."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.digests import sha256_of_file
from eval.own.files import FileListing, OwnFiles, OwnTaskError, name_some
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
    listing = list_own_files(name, files=files, root=root)
    counts = {split: Counter(listing.labels[split]) for split in ("train", "test")}
    problems = _class_problems(counts, classes=listing.classes)
    if problems:
        raise OwnTaskError(name, problems=problems)
    layout = {key: value for key, value in asdict(files).items() if key != "place"}
    content = files.place if files.layout == "hub" else _digests(listing.paths)
    return Task(
        name=name,
        classes=listing.classes,
        num_train=counts["train"].total(),
        num_test=counts["test"].total(),
        channels=files.channels,
        stands_in_for="itself",
        material="own",
        licence="the study's own",
        fingerprint=fingerprint_of([OWN_VERSION, layout, content, listing.classes]),
    )


def list_own_files(name: str, *, files: OwnFiles, root: Path) -> FileListing:
    """Lists a task's files with their labels, and the files that are left out with the reasons.

    No image is opened. Of tables, the labels are read.

    Raises:
        OwnTaskError: Files are missing or do not make a task; the error lists every problem.
    """
    if files.layout == "folder":
        return list_folders(name, directory=Path(files.place))
    from eval.own.tables import list_tables  # noqa: PLC0415 loads Arrow, which folders do not need

    return list_tables(name, files=files, root=root)


def _class_problems(counts: Mapping[str, Counter[int]], *, classes: Sequence[str]) -> list[str]:
    problems = []
    if len(classes) < 2:  # noqa: PLR2004 a classifier chooses between two or more
        problems.append(f"it has {len(classes)} class, and at least two are needed")
    for split, found in counts.items():
        empty = [each for number, each in enumerate(classes) if not found[number]]
        if empty:
            problems.append(f"no image of class {name_some(empty)} in its {split} split")
    return problems


def _digests(paths: Mapping[str, Sequence[tuple[str, Path]]]) -> list[Any]:
    return [
        [split, name, *_size_and_digest(path)]
        for split in sorted(paths)
        for name, path in paths[split]
    ]


def _size_and_digest(path: Path) -> tuple[int, str]:
    status = path.stat()
    return status.st_size, _digest(str(path), status.st_size, status.st_mtime_ns)


@cache
def _digest(path: str, _size: int, _mtime_ns: int) -> str:
    """Hashes a file once per process, although a process makes a study's plan several times."""
    return sha256_of_file(Path(path))

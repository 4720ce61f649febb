"""A study's own tasks: what a user's files are, read without opening an image.

Errors::

    ValueError
    └── OwnTaskError    files do not make a task; says everything that is wrong with them
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval.own.folders import list_class_folders
from eval.tasks import Task, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Layout = Literal["folder", "tables", "hub"]

OWN_VERSION = 1
"""Enters every fingerprint; bumped when the same files are read as other images or labels."""
TEST_NAMES = ("test", "val", "validation", "valid")
"""What a test split may be called; the first that is there is taken."""
MAX_NAMED = 5
"""Files or classes that a problem names."""


class OwnTaskError(ValueError):
    """Files do not make a task."""

    def __init__(self, name: str, *, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"task {name!r}: {'; '.join(self.problems)}")


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """Says where a task's files lie, and how to read them."""

    layout: Layout
    """A folder a class; Parquet or Arrow files; or those of a data set on the hub."""
    place: str
    """An absolute directory, or owner/name on the hub."""
    revision: str | None = None
    """The hub's commit; None for the other layouts."""
    image: str = "image"
    """Column of the images in tables."""
    label: str = "label"
    """Column of the labels in tables."""
    classes: tuple[str, ...] = ()
    """Names of integer labels, in their order, where the tables do not have them."""
    channels: int = 3
    """1 makes every image grey, 3 makes every image RGB."""


def describe(name: str, *, files: OwnFiles, root: Path) -> Task:
    """Reads what a task is from its files.

    Folders and tables are hashed whole, one reading of their bytes (0.7 GB a second of CPU); of a
    data set on the hub its id and revision say what it is, and only labels are read.

    Args:
        name: The task's name in the study.
        files: Where they are.
        root: The data root, where snapshots of the hub lie.

    Raises:
        OwnTaskError: The files are missing or do not make a task; every problem is in it.
    """
    found = _listed(name, files=files, root=root)
    counts = {split: Counter(found.labels[split]) for split in ("train", "test")}
    problems = _class_problems(counts, classes=found.classes)
    if problems:
        raise OwnTaskError(name, problems=problems)
    how = {key: value for key, value in asdict(files).items() if key != "place"}
    content = files.place if files.layout == "hub" else _digests(found.paths)
    return Task(
        name=name,
        classes=found.classes,
        num_train=counts["train"].total(),
        num_test=counts["test"].total(),
        channels=files.channels,
        stands_in_for="itself",
        material="own",
        licence="the study's own",
        fingerprint=digest_of([OWN_VERSION, how, content, found.classes]),
    )


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Lists the files of a task, before anything is said about whether they make one."""

    classes: tuple[str, ...]
    labels: Mapping[str, Sequence[int]]
    """Positions in `classes`, by split."""
    paths: Mapping[str, Sequence[tuple[str, Path]]]
    """Names below the split, and files, by split."""


def list_folders(name: str, *, directory: Path) -> Listed:
    """Lists `train/<class>/*` and `test/<class>/*`.

    Raises:
        OwnTaskError: A split is missing, there is no class, or there are files that are no images.
    """
    bases = _split_folders(name, directory=directory)
    listed = {split: list_class_folders(base) for split, base in bases.items()}
    problems = [
        f"{bases[split]} has files that are no images, or in no class: {_some(found.strays)}"
        for split, found in listed.items()
        if found.strays
    ]
    train, test = (set(listed[split].files) for split in ("train", "test"))
    problems += [
        f"{bases[split]} has no class {_some(sorted(lacking))}, which the other split has"
        for split, lacking in (("test", train - test), ("train", test - train))
        if lacking
    ]
    if problems:
        raise OwnTaskError(name, problems=problems)
    classes = tuple(sorted(train))
    paths, labels = {}, {}
    for split, found in listed.items():
        in_order = [(n, path) for n, each in enumerate(classes) for path in found.files[each]]
        labels[split] = [number for number, _ in in_order]
        paths[split] = [(path.relative_to(bases[split]).as_posix(), path) for _, path in in_order]
    return Listed(classes=classes, labels=labels, paths=paths)


def _split_folders(name: str, *, directory: Path) -> dict[str, Path]:
    if not directory.is_dir():
        raise OwnTaskError(name, problems=[f"{directory} is no directory on this machine"])
    allowed = {"train": ("train",), "test": TEST_NAMES}
    found = {
        split: next((directory / each for each in names if (directory / each).is_dir()), None)
        for split, names in allowed.items()
    }
    problems = [
        f"{directory} has no folder {' or '.join(allowed[split])}"
        for split, path in found.items()
        if path is None
    ]
    if problems:
        raise OwnTaskError(name, problems=problems)
    return {split: path for split, path in found.items() if path is not None}


def _listed(name: str, *, files: OwnFiles, root: Path) -> Listed:
    if files.layout == "folder":
        return list_folders(name, directory=Path(files.place))
    from eval.own.tables import list_tables  # noqa: PLC0415 loads Arrow, which folders do not need

    return list_tables(name, files=files, root=root)


def _class_problems(counts: Mapping[str, Counter[int]], *, classes: Sequence[str]) -> list[str]:
    problems = []
    if len(classes) < 2:  # noqa: PLR2004 a choice needs two
        problems.append(f"it has {len(classes)} class, and at least two are needed")
    for split, found in counts.items():
        empty = [each for number, each in enumerate(classes) if not found[number]]
        if empty:
            problems.append(f"no image of class {_some(empty)} in its {split} split")
    return problems


def _some(names: Iterable[object]) -> str:
    listed = [str(each) for each in names]
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more


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
    """Hashes a file; a plan is worked out several times in a process, its files read once."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Finds the Parquet and Arrow files of a split below a directory."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from eval.counts import first_names
from eval.file_tree import FileTree, walk
from eval.images.protocol import ImageSourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUFFIXES = (".parquet", ".arrow")
"""File name suffixes of tables, in upper or lower case."""
CACHE_PREFIX = "cache-"
"""Prefix of the files in which the `datasets` library keeps what it computed."""
_NUMBERED = re.compile(r"(?P<name>.*)-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})(-[0-9a-f]{16})?")
"""Names of numbered files; older ones of the hub end with the beginning of a digest."""
_MAX_NAMED = 5


def is_table(path: Path) -> bool:
    """Returns whether a file is a table by its name."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(CACHE_PREFIX)


def is_arrow(path: Path) -> bool:
    """Returns whether a table is an Arrow file and no Parquet file, by its name."""
    return path.suffix.lower() == ".arrow"


def walk_tables(directory: Path, *, ignore: Sequence[str] = ()) -> FileTree:
    """Walks a directory of tables; see `eval.file_tree.walk`.

    Raises:
        ImageSourceError: An entry that may be or contain a table cannot be read.
    """
    tree = walk(directory, ignore=ignore)
    faults = [str(fault) for fault in tree.faults if is_table(fault.path) or not fault.path.suffix]
    if faults:
        raise ImageSourceError("; ".join(faults[:_MAX_NAMED]))
    return tree


def find_shards(tree: FileTree, *, split: str) -> list[Path]:
    """Returns a split's files: `train.parquet`, `train-00000-of-00002.parquet`, `train/*.arrow`.

    Raises:
        ImageSourceError: The files lie in several folders, so the data set has several
            configurations. Or they are of both kinds.
    """
    found = tables_named(tree, split=split)
    folders = sorted({tree.name(path.parent) for path in found})
    if len(folders) > 1:
        raise ImageSourceError(
            f"{tree.root}: files of the split {split!r} lie in several folders, "
            f"{', '.join(folders)}: give one of these folders"
        )
    if len({is_arrow(path) for path in found}) > 1:
        raise ImageSourceError(
            f"{tree.root}: the split {split!r} has both Parquet and Arrow files, "
            f"{first_names(path.name for path in found)}: keep one kind, or leave one out by "
            "`ignore`"
        )
    return found


def tables_named(tree: FileTree, *, split: str) -> list[Path]:
    """Returns the tables that belong to a split by their own names or by their folder's."""
    named = re.compile(rf"{re.escape(split)}([-_.].*)?")
    return [
        path
        for path in tree.files
        if is_table(path)
        and (named.fullmatch(path.stem) or (path.parent != tree.root and path.parent.name == split))
    ]


def missing_shards(shards: Sequence[Path]) -> list[str]:
    """Returns the names that numbered files lack: `x-00001-of-00002` if only the first exists."""
    series: dict[tuple[str, int], set[int]] = defaultdict(set)
    for path in shards:
        if match := _NUMBERED.fullmatch(path.stem):
            series[match["name"], int(match["total"])].add(int(match["number"]))
    return [
        f"{name}-{number:05d}-of-{total:05d}"
        for (name, total), numbers in series.items()
        for number in range(total)
        if number not in numbers
    ]


def competing_shards(shards: Sequence[Path]) -> list[str]:
    """Returns the names of files that look like several versions of one split.

    Such are a whole file beside numbered ones, files numbered of two and of three, and two files
    with one number.
    """
    series: dict[str, list[tuple[str, str]]] = defaultdict(list)
    files: dict[str, list[str]] = defaultdict(list)
    for path in shards:
        match = _NUMBERED.fullmatch(path.stem)
        name = match["name"] if match else path.stem
        series[name].append((match["total"], match["number"]) if match else ("", ""))
        files[name].append(path.name)
    return [
        file
        for name, numbers in series.items()
        if len({total for total, _ in numbers}) > 1 or len(set(numbers)) < len(numbers)
        for file in files[name]
    ]

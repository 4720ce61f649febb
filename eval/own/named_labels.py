"""Numbers the labels of several tables by the names of their classes.

Each table may number the classes in an order of its own (the `ClassLabel` of Hugging Face's data
sets), or have the names in its rows. A label is a name first, and a number only where no table and
no study file has names that differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eval.class_names import alike_pair
from eval.counts import first_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from eval.images.table_source import LabelColumn

GIVEN = "`classes` of the study file"


@dataclass(frozen=True, kw_only=True, eq=False)
class TableLabels:
    """The labels of one table."""

    split: str
    path: Path
    column: LabelColumn

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of its integer labels, if the table has them."""
        return None if self.is_text else self.column.names

    @property
    def is_text(self) -> bool:
        """Whether its rows have the names of classes."""
        return self.column.values.dtype.kind == "U"


@dataclass(frozen=True, kw_only=True)
class ClassList:
    """The classes of a task in the order of their numbers."""

    names: tuple[str, ...]
    place: str
    """The table or field that has the order, for messages."""


def find_classes(tables: Sequence[TableLabels], *, given: tuple[str, ...]) -> ClassList | None:
    """Returns a task's classes; None if nothing names them.

    The order is that of `given`, else of the first table with names for its integers, else the
    alphabetical order of the names in the rows of the training split. Training tables come first.
    """
    if given:
        return ClassList(names=given, place=GIVEN)
    named = next((table for table in tables if table.names), None)
    if named is not None and named.names:
        return ClassList(names=named.names, place=str(named.path))
    text = [table for table in tables if table.is_text and table.split == "train"]
    if not text:
        return None
    names = {str(name) for table in text for name in np.unique(table.column.values)}
    return ClassList(names=tuple(sorted(names)), place="the rows of the training split")


def problems_of(table: TableLabels, *, classes: ClassList) -> Iterator[str]:
    """Yields the contradictions between a table's labels and the classes of its task."""
    values, names = table.column.values, table.names
    if not len(values) and names is None:
        return
    if table.is_text:
        unknown = sorted({str(each) for each in np.unique(values)} - {*classes.names})
        if unknown:
            pair = alike_pair(unknown, among=classes.names)
            yield (
                f"{table.path}: its labels {first_names(map(repr, unknown))} are not among the "
                f"classes, which are those of {classes.place}"
                + (f"; {pair[0]!a} looks like {pair[1]!a}" if pair else "")
            )
        return
    if names is not None:
        yield from _problems_of_names(table, names=names, classes=classes)
    elif classes.place != GIVEN:
        yield (
            f"{table.path}: its labels are integers without names, but the classes of "
            f"{classes.place} have names: list the names under classes, in order"
        )
        return
    lowest, highest = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    num = len(classes.names if names is None else names)
    if lowest < 0 or highest >= num:
        hint = "; -1 marks images without a label" if lowest == -1 else ""
        yield f"{table.path}: labels from {lowest} to {highest}, but {num} classes{hint}"


def numbered(table: TableLabels, *, classes: ClassList) -> NDArray[np.int64]:
    """Returns a table's labels as positions in the classes; the table has no problems."""
    values: NDArray[np.int64] = table.column.values
    if table.is_text:
        found, inverse = np.unique(values, return_inverse=True)
        return _numbers(map(str, found), classes=classes)[inverse]
    if table.names is None or not _goes_by_name(table.names, classes=classes):
        return values
    return _numbers(table.names, classes=classes)[values]


def is_renumbered(table: TableLabels, *, classes: ClassList) -> bool:
    """Returns whether a table's integer labels are not those of its task."""
    names = table.names
    return names is not None and _goes_by_name(names, classes=classes) and names != classes.names


def _numbers(names: Iterable[str], *, classes: ClassList) -> NDArray[np.int64]:
    numbers = {name: number for number, name in enumerate(classes.names)}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _problems_of_names(
    table: TableLabels, *, names: tuple[str, ...], classes: ClassList
) -> Iterator[str]:
    if len(set(names)) < len(names):
        repeated = sorted({each for each in names if names.count(each) > 1})
        yield f"{table.path}: it names two classes {first_names(map(repr, repeated))}"
    elif not _goes_by_name(names, classes=classes) and not _is_renaming(names, classes=classes):
        for holder, lacking, other in (
            (table.path, set(classes.names) - set(names), classes.place),
            (classes.place, set(names) - set(classes.names), table.path),
        ):
            if lacking:
                yield f"{holder} has no class {first_names(sorted(lacking))}, which {other} has"


def _goes_by_name(names: tuple[str, ...], *, classes: ClassList) -> bool:
    return set(names) == set(classes.names)


def _is_renaming(names: tuple[str, ...], *, classes: ClassList) -> bool:
    """Returns whether a user gives a table's classes other names, in the table's own order."""
    pairs = zip(names, classes.names, strict=False)
    return (
        classes.place == GIVEN
        and len(names) == len(classes.names)
        and all(left == right or left not in classes.names for left, right in pairs)
    )

"""Lists own tasks stored in Parquet or Arrow files: splits, labels and class names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.hub_snapshots import snapshot_directory, snapshot_remedy
from eval.images.protocol import ImageSourceError
from eval.images.table_source import LabelColumn, check_image_column, find_shards, read_labels
from eval.own.files import TEST_NAMES, FileListing, OwnFiles, OwnTaskError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def list_tables(name: str, *, files: OwnFiles, root: Path) -> FileListing:
    """Lists the files of both splits and reads their labels.

    String labels are numbered in alphabetical order. Integer labels keep their order; their names
    come from `OwnFiles.classes`, or from the metadata that the hub's data sets have in the schema.

    Raises:
        OwnTaskError: Files or columns are missing, or integer labels have no names.
    """
    try:
        directory = _directory(files, root=root)
        shards = _find_splits(directory)
        columns = {split: _labels(found, files=files) for split, found in shards.items()}
    except ImageSourceError as error:
        raise OwnTaskError(name, problems=[str(error)]) from error
    missing = [split for split, found in shards.items() if not found]
    if missing:
        problems = [
            f"{directory} has no .parquet or .arrow file of the split "
            f"{' or '.join(TEST_NAMES) if each == 'test' else each} ({each}*.parquet)"
            for each in missing
        ]
        raise OwnTaskError(name, problems=problems)
    classes = _classes(name, columns=columns, given=files.classes)
    labels = {
        split: _numbered(name, column, classes=classes, split=split)
        for split, column in columns.items()
    }
    paths = {
        split: [(path.relative_to(directory).as_posix(), path) for path in found]
        for split, found in shards.items()
    }
    return FileListing(classes=classes, labels=labels, paths=paths)


def _find_splits(directory: Path) -> dict[str, list[Path]]:
    """Returns the files of both splits; the list of a missing split is empty.

    Raises:
        ImageSourceError: The files of a split lie in several folders.
    """
    test = (find_shards(directory, split=each) for each in TEST_NAMES)
    return {
        "train": find_shards(directory, split="train"),
        "test": next((found for found in test if found), []),
    }


def _directory(files: OwnFiles, *, root: Path) -> Path:
    if files.layout == "hub":
        revision = files.revision or ""
        remedy = snapshot_remedy(files.place, revision=revision, root=root)
        return snapshot_directory(files.place, revision=revision, root=root, remedy=remedy)
    directory = Path(files.place)
    if not directory.is_dir():
        raise ImageSourceError(f"{directory} is no directory on this machine")
    return directory


def _labels(shards: Sequence[Path], *, files: OwnFiles) -> LabelColumn:
    if not shards:
        return LabelColumn(values=np.zeros(0, dtype=np.int64), names=None)
    check_image_column(shards, column=files.image)
    return read_labels(shards, column=files.label)


def _classes(
    name: str, *, columns: Mapping[str, LabelColumn], given: tuple[str, ...]
) -> tuple[str, ...]:
    train = columns["train"]
    if train.values.dtype.kind == "U":
        return given or tuple(sorted({str(each) for each in train.values}))
    classes = given or train.names
    if not given and columns["test"].names != train.names:
        problem = (
            f"its test split has the class names {columns['test'].names}, its training split "
            f"{train.names}"
        )
        raise OwnTaskError(name, problems=[problem])
    if classes is None:
        problem = "its labels are integers without names: list the names under classes, in order"
        raise OwnTaskError(name, problems=[problem])
    return classes


def _numbered(name: str, column: LabelColumn, *, classes: tuple[str, ...], split: str) -> list[int]:
    if column.values.dtype.kind == "U":
        numbers = {each: number for number, each in enumerate(classes)}
        unknown = sorted({str(each) for each in column.values} - numbers.keys())
        if unknown:
            problem = f"its {split} split has labels that are not among its classes: {unknown[:5]}"
            raise OwnTaskError(name, problems=[problem])
        return [numbers[str(each)] for each in column.values]
    lowest, highest = int(column.values.min()), int(column.values.max())
    if lowest < 0 or highest >= len(classes):
        problem = (
            f"its {split} split has labels from {lowest} to {highest}, but {len(classes)} classes"
        )
        raise OwnTaskError(name, problems=[problem])
    return [int(each) for each in column.values]

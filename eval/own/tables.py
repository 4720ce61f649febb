"""Lists own tasks stored in Parquet or Arrow files: splits, labels and class names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eval.counts import first_names
from eval.hub_snapshots import snapshot_directory, snapshot_remedy
from eval.images.protocol import ImageSourceError
from eval.images.table_files import (
    CACHE_PREFIX,
    SUFFIXES,
    competing_shards,
    find_shards,
    is_table,
    missing_shards,
    tables_named,
    walk_tables,
)
from eval.images.table_source import check_image_column, read_label_column
from eval.own.files import (
    OUTSIDE,
    FileListing,
    OwnFiles,
    OwnTaskError,
    leave_out,
    unmatched_patterns,
)
from eval.own.named_labels import (
    ClassList,
    TableLabels,
    find_classes,
    is_renumbered,
    numbered,
    problems_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eval.file_tree import FileTree

CACHED = "cache files of the `datasets` library"
NO_SPLIT = "tables of no split"
NO_TABLES = "files that are no tables"


def list_tables(name: str, *, files: OwnFiles, root: Path) -> FileListing:
    """Lists the files of both splits and reads their labels.

    Labels go by the names of their classes, across all files of both splits. Names in the rows are
    numbered in alphabetical order. Names of integers come from the metadata that the hub's data
    sets have in the schema, or from `OwnFiles.classes`, which have the last word on the order.

    Raises:
        OwnTaskError: Files or columns are missing, integer labels have no names, or files
            contradict each other.
    """
    try:
        directory = _directory(files, root=root)
        tree = walk_tables(directory, ignore=files.ignore)
        shards, remarks = _find_splits(tree, files=files)
    except ImageSourceError as error:
        raise OwnTaskError(name, problems=[str(error)]) from error
    tables = _read_labels(name, shards=shards, files=files)
    classes = _agreed_classes(name, tables=tables, given=files.classes, remarks=remarks)
    labels: dict[str, list[int]] = {split: [] for split in shards}
    for table in tables:
        labels[table.split] += numbered(table, classes=classes).tolist()
    renumbered = [table for table in tables if is_renumbered(table, classes=classes)]
    if renumbered:
        remarks.append(
            f"{renumbered[0].path} numbers the classes in another order than {classes.place}; "
            "labels go by the names of the classes"
        )
    return FileListing(
        classes=classes.names,
        labels=labels,
        paths={
            split: [(tree.name(path), path) for path in found] for split, found in shards.items()
        },
        left_out={OUTSIDE: leave_out(_unused(tree, shards=shards))},
        is_renumbered=bool(renumbered),
        remarks=tuple(remarks),
    )


def _find_splits(tree: FileTree, *, files: OwnFiles) -> tuple[dict[str, list[Path]], list[str]]:
    """Returns the files of both splits, and remarks on files that are not used.

    Raises:
        ImageSourceError: A split has no files, or it is not clear which files it has.
    """
    tests = [each for each in files.test_names if tables_named(tree, split=each)]
    names = {"train": files.train_names[0], "test": (tests or files.test_names)[0]}
    shards = {split: find_shards(tree, split=name) for split, name in names.items()}
    allowed = {"train": files.train_names, "test": files.test_names}
    for split, found in shards.items():
        if not found:
            existing = [tree.name(path) for path in tree.files]
            has = f"its files are {first_names(existing)}" if existing else "it has no files"
            raise ImageSourceError(
                f"{tree.root} has no .parquet or .arrow file of the split "
                f"{' or '.join(allowed[split])} ({names[split]}*.parquet); {has}"
            )
    shared = [tree.name(path) for path in shards["train"] if path in set(shards["test"])]
    if shared:
        raise ImageSourceError(
            f"{first_names(shared)} in {tree.root} would belong to both splits: to one by its own "
            "name, to the other by its folder's"
        )
    test_files = {_identity(path): path for path in shards["test"]}
    for path in shards["train"]:
        if (other := test_files.get(_identity(path))) is not None:
            both = f"{tree.name(path)} and {tree.name(other)}"
            raise ImageSourceError(f"{both} in {tree.root} are the same file, through a link")
    return shards, [
        *unmatched_patterns(files, used=tree.used),
        *(_unused_test(tree, used=names["test"], unused=each) for each in tests[1:]),
        *_remarks_on(shards, tree=tree),
    ]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _unused_test(tree: FileTree, *, used: str, unused: str) -> str:
    files = first_names(tree.name(path) for path in tables_named(tree, split=unused))
    return (
        f"the test split is {used}, and {files} in {tree.root} are not used; `test: {unused}` "
        "would use them instead"
    )


def _remarks_on(shards: Mapping[str, Sequence[Path]], *, tree: FileTree) -> Iterator[str]:
    places = {}
    for split, found in shards.items():
        if missing := missing_shards(found):
            yield f"its {split} split is incomplete: {tree.root} has no file {first_names(missing)}"
        if competing := competing_shards(found):
            yield (
                f"its {split} split takes all of {first_names(competing)}, which look like several "
                "versions of it: leave some out by `ignore` if they have the same images"
            )
        folder = found[0].parent
        is_split_folder = folder != tree.root and tables_named(tree, split=folder.name) == found
        places[split] = tree.name(folder.parent if is_split_folder else folder)
    if len(set(places.values())) > 1:
        yield (
            f"its training files lie in {tree.root / places['train']}, its test files in "
            f"{tree.root / places['test']}"
        )


def _directory(files: OwnFiles, *, root: Path) -> Path:
    if files.layout == "hub":
        revision = files.revision or ""
        remedy = snapshot_remedy(files.place, revision=revision, root=root)
        return snapshot_directory(files.place, revision=revision, root=root, remedy=remedy)
    directory = Path(files.place)
    if not directory.is_dir():
        raise ImageSourceError(f"{directory} is no directory on this machine")
    return directory


def _read_labels(
    name: str, *, shards: Mapping[str, Sequence[Path]], files: OwnFiles
) -> list[TableLabels]:
    """Reads the labels of all files, those of the training split first.

    Raises:
        OwnTaskError: Some files cannot be used; the error lists all of them.
    """
    tables, problems = [], []
    for split, paths in shards.items():
        for path in paths:
            try:
                check_image_column([path], column=files.image)
                column = read_label_column(path, column=files.label)
                tables.append(TableLabels(split=split, path=path, column=column))
            except ImageSourceError as error:
                problems.append(str(error))
    if problems:
        raise OwnTaskError(name, problems=problems)
    return tables


def _agreed_classes(
    name: str, *, tables: Sequence[TableLabels], given: tuple[str, ...], remarks: Sequence[str]
) -> ClassList:
    """Returns the classes of all tables.

    Raises:
        OwnTaskError: Nothing names the classes, or tables contradict each other or the given names.
    """
    classes = find_classes(tables, given=given)
    if classes is None:
        if not any(len(table.column.values) for table in tables):
            return ClassList(names=(), place="no row")
        problem = "its labels are integers without names: list the names under classes, in order"
        raise OwnTaskError(name, problems=[problem])
    problems = [each for table in tables for each in problems_of(table, classes=classes)]
    if problems:
        raise OwnTaskError(name, problems=[*problems, *remarks])
    return classes


def _unused(tree: FileTree, *, shards: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    taken = {path for found in shards.values() for path in found}
    unused: dict[str, list[str]] = {NO_SPLIT: [], CACHED: [], NO_TABLES: []}
    for path in tree.files:
        if path not in taken:
            is_cache = path.suffix.lower() in SUFFIXES and path.name.startswith(CACHE_PREFIX)
            reason = NO_SPLIT if is_table(path) else CACHED if is_cache else NO_TABLES
            unused[reason].append(tree.name(path))
    return {**unused, **tree.skipped}

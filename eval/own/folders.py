"""Lists own tasks stored as one folder per class, the layout of torchvision's `ImageFolder`.

Links to files and folders are followed, and images of a class may lie at any depth below its
folder, as in torchvision. Two things differ: torchvision reads hidden images (`.a.png`, and all
files in `.ipynb_checkpoints`), and passes over other files without a word. Here hidden files are
left out and counted, and a file that may be meant as an image is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.class_names import alike_pair
from eval.counts import first_names
from eval.file_tree import HIDDEN, IGNORED, matching_patterns, printable, reason_to_skip, walk
from eval.own.files import (
    OUTSIDE,
    TEST_NAMES,
    FileListing,
    OwnFiles,
    OwnTaskError,
    leave_out,
    unmatched_patterns,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eval.own.files import LeftOut

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".jp2", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File name suffixes of images, in upper or lower case."""
SIDE_SUFFIXES = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".rst", ".html", ".htm", ".xml", ".yaml"),
    *(".yml", ".toml", ".ini", ".cfg", ".log", ".pdf", ".py", ".ipynb", ".sh", ".md5", ".sha256"),
)
"""File name suffixes of notes, lists and programs that often lie beside images."""
SIDE_NAMES = ("readme", "license", "licence", "copying", "notice", "changelog", "manifest")
"""Names of such files without a suffix, in lower case."""
SIDE = "notes, lists and programs beside the images"
BESIDE = "files and folders beside the splits"


@dataclass(frozen=True, kw_only=True)
class _Split:
    """The content of one split's folder."""

    base: Path
    images: Mapping[str, tuple[Path, ...]]
    """Images by class, both in ascending order; a class may have none."""
    problems: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    used: set[str]
    """The patterns of `ignore` that an entry matches."""


def list_folders(name: str, *, files: OwnFiles) -> FileListing:
    """Lists `train/<class>/*` and `test/<class>/*` without opening a file.

    Raises:
        OwnTaskError: A split or class is missing, an entry cannot be read, or a file is no image.
    """
    directory = Path(files.place)
    bases = _split_folders(name, files=files)
    listed = {split: _list_split(base, files=files) for split, base in bases.items()}
    others, remarks = _beside(directory, bases=bases, files=files)
    used = {each for found in listed.values() for each in found.used}
    for entry in directory.iterdir():
        used |= matching_patterns(entry.name, ignore=files.ignore)
    remarks = (*unmatched_patterns(files, used=used), *remarks)
    problems = [each for found in listed.values() for each in found.problems]
    problems += _class_problems(listed)
    if problems:
        raise OwnTaskError(name, problems=[*problems, *remarks])
    classes = tuple(sorted(listed["train"].images))
    paths, labels = {}, {}
    for split, found in listed.items():
        in_order = [(n, path) for n, each in enumerate(classes) for path in found.images[each]]
        labels[split] = [number for number, _ in in_order]
        paths[split] = [(path.relative_to(found.base).as_posix(), path) for _, path in in_order]
    return FileListing(
        classes=classes,
        labels=labels,
        paths=paths,
        left_out={**{split: each.left_out for split, each in listed.items()}, OUTSIDE: others},
        remarks=remarks,
    )


def _split_folders(name: str, *, files: OwnFiles) -> dict[str, Path]:
    directory = Path(files.place)
    if not directory.is_dir():
        raise OwnTaskError(name, problems=[f"{directory} is no directory on this machine"])
    allowed = {"train": files.train_names, "test": files.test_names}
    found = {
        split: next((directory / each for each in names if (directory / each).is_dir()), None)
        for split, names in allowed.items()
    }
    existing = sorted(each.name for each in directory.iterdir() if each.is_dir())
    has = f"its folders are {first_names(existing)}" if existing else "it has no folders"
    problems = [
        f"{directory} has no folder {' or '.join(allowed[split])}; {has}; "
        f"give another name under `{split}`"
        for split, path in found.items()
        if path is None
    ]
    bases = {split: path for split, path in found.items() if path is not None}
    if not problems and bases["train"].samefile(bases["test"]):
        problems = [f"{bases['train']} and {bases['test']} are the same folder"]
    if problems:
        raise OwnTaskError(name, problems=problems)
    return bases


def _list_split(base: Path, *, files: OwnFiles) -> _Split:
    """Lists the files below each folder of a split, at any depth."""
    tree = walk(base, root=Path(files.place), ignore=files.ignore)
    depth = len(base.parts)
    images: dict[str, list[Path]] = {path.name: [] for path in tree.folders if path.parent == base}
    side = [path for path in tree.files if is_side_file(path)]
    rest = [path for path in tree.files if not is_side_file(path)]
    homeless = [path for path in rest if path.parent == base]
    others = [path for path in rest if path.parent != base and not _is_image(path)]
    for path in rest:
        if path.parent != base and _is_image(path):
            images[path.parts[depth]].append(path)
    problems = [str(fault) for fault in tree.faults if not is_side_file(fault.path)]
    if homeless:
        problems.append(
            f"{base} has files that lie in no class folder: {_names(homeless, base=base)}"
        )
    if others:
        problems.append(
            f"{base} has files whose names are not those of images: {_names(others, base=base)}; "
            "rename them, move them away, or leave them out by a pattern under `ignore`"
        )
    return _Split(
        base=base,
        images={name: tuple(found) for name, found in sorted(images.items())},
        problems=tuple(problems),
        left_out=leave_out({SIDE: [tree.name(path) for path in side], **tree.skipped}),
        used=tree.used,
    )


def _class_problems(listed: Mapping[str, _Split]) -> list[str]:
    """Returns the classes that only one of the two splits has."""
    train, test = (set(listed[split].images) for split in ("train", "test"))
    return [
        f"{listed[split].base} has no class {first_names(sorted(lacking))}, which the other split "
        "has" + _near_hint(lacking, among=known)
        for split, lacking, known in (
            ("test", train - test, test - train),
            ("train", test - train, train - test),
        )
        if lacking
    ]


def _near_hint(lacking: Iterable[str], *, among: Iterable[str]) -> str:
    """Returns a hint at a class that one split spells differently, if there is one."""
    pair = alike_pair(lacking, among=among)
    return f" (it has {pair[1]!a}, which looks like {pair[0]!a})" if pair else ""


def _beside(
    directory: Path, *, bases: Mapping[str, Path], files: OwnFiles
) -> tuple[tuple[LeftOut, ...], tuple[str, ...]]:
    """Returns the entries of a task's directory outside both splits, and a remark on them."""
    names: dict[str, list[str]] = {BESIDE: [], HIDDEN: [], IGNORED: []}
    unused = []
    for entry in sorted(directory.iterdir()):
        if entry in bases.values():
            continue
        reason = reason_to_skip(entry.name, ignore=files.ignore)
        names[reason or BESIDE].append(entry.name + "/" * entry.is_dir())
        if files.test is None and reason is None and entry.name in TEST_NAMES and entry.is_dir():
            unused.append(entry.name)
    remarks = [
        f"the test split is {bases['test']}, and {directory / each} is not used; "
        f"`test: {each}` would use it instead"
        for each in unused
    ]
    return leave_out(names), tuple(remarks)


def is_side_file(path: Path) -> bool:
    """Returns whether a file is a note, list or program by its name, which nobody reads as data."""
    name = path.name.lower()
    return path.suffix.lower() in SIDE_SUFFIXES or name in SIDE_NAMES


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _names(paths: Iterable[Path], *, base: Path) -> str:
    return first_names(printable(path.relative_to(base).as_posix()) for path in paths)

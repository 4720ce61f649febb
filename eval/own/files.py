"""The types that describe the files of a study's own task.

Errors::

    ValueError
    └── OwnTaskError    the files do not make a task; the message lists every problem
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from eval.counts import first_names
from eval.file_tree import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

Layout = Literal["folder", "tables", "hub"]

CHOICES = ("train", "test", "ignore")
"""Fields of `OwnFiles` that choose among the files in a directory. A fingerprint covers the chosen
files, and these fields only where it covers no files."""
TRAIN_NAME = "train"
TEST_NAMES = ("test", "val", "validation", "valid")
"""Accepted names of a test split; the first one found is used."""
OUTSIDE = "outside"
"""Key of the files that lie in no split's folder, in `FileListing.left_out`."""
MAX_PROBLEMS = 20
"""Most problems of one task that a message lists."""
MAX_NAMED = 5
"""Most files or classes that a message names."""


class OwnTaskError(ValueError):
    """The files of a study's own task do not make a task."""

    def __init__(self, name: str, *, problems: Sequence[str]) -> None:
        more = len(problems) - MAX_PROBLEMS
        rest = (f"and {more} more problems",) if more > 0 else ()
        self.problems = (*problems[:MAX_PROBLEMS], *rest)
        super().__init__(f"task {name!r}: {'; '.join(self.problems)}")


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """The place and layout of a task's files.

    The fields but `place` and `CHOICES` enter the task's fingerprint by name and value, so renaming
    one of them changes the ids of every own task.
    """

    layout: Layout
    """``folder``: one folder per class. ``tables``: Parquet or Arrow files. ``hub``: the tables of
    a data set on Hugging Face's hub."""
    place: str
    """An absolute directory, or owner/name on the hub."""
    revision: str | None = None
    """The hub's commit; None for the other layouts."""
    image: str = "image"
    """Column of the images in tables."""
    label: str = "label"
    """Column of the labels in tables."""
    classes: tuple[str, ...] = ()
    """Names of integer labels, in their order; empty where the tables carry the names."""
    channels: int = 3
    """1 makes every image grey, 3 makes every image RGB."""
    train: str | None = None
    """Name of the training split's folder or files; None for ``train``."""
    test: str | None = None
    """Name of the test split's folder or files; None for the first of `TEST_NAMES` that exists."""
    ignore: tuple[str, ...] = ()
    """Patterns of files and folders that are left out; see `eval.file_tree.walk`."""

    @property
    def train_names(self) -> tuple[str, ...]:
        """The names that the training split may have."""
        return (self.train or TRAIN_NAME,)

    @property
    def test_names(self) -> tuple[str, ...]:
        """The names that the test split may have; the first one found is used."""
        return (self.test,) if self.test else TEST_NAMES

    def to_json(self) -> dict[str, Any]:
        """Returns the fields, without those of `CHOICES` that are not set."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in CHOICES or value not in (None, ())
        }


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Files that a task does not use, all for the same reason."""

    reason: str
    """A noun phrase for the files: ``hidden files``, ``files of no split``."""
    num_entries: int
    """A folder that is left out as a whole counts as one entry."""
    examples: tuple[str, ...]
    """The first names below the task's directory, at most `MAX_NAMED`; of folders, with a slash."""

    def __str__(self) -> str:
        """Returns the line that a user reads."""
        more = ", ..." if self.num_entries > len(self.examples) else ""
        return f"{self.reason}: {self.num_entries:,} ({', '.join(self.examples)}{more})"


@dataclass(frozen=True, kw_only=True)
class FileListing:
    """The classes, labels and files found for a task, before they are checked."""

    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    labels: Mapping[str, Sequence[int]]
    """Positions in `classes`, one per image, by split."""
    paths: Mapping[str, Sequence[tuple[str, Path]]]
    """Files by split, each with its name below the split."""
    left_out: Mapping[str, Sequence[LeftOut]] = field(default_factory=dict)
    """The files that are not used, by split; `OUTSIDE` for files in the folder of no split."""
    is_renumbered: bool = False
    """Whether files number the classes differently, so that their labels went by name."""
    remarks: tuple[str, ...] = ()
    """Whole sentences about anything else that a user should look at once."""

    def class_counts(self, split: str) -> tuple[int, ...]:
        """Returns the number of a split's images of each class, in the order of the classes."""
        counts = Counter(self.labels[split])
        return tuple(counts[number] for number in range(len(self.classes)))


def leave_out(names: Mapping[str, Sequence[str]]) -> tuple[LeftOut, ...]:
    """Returns the files that are not used, by reason, given their names by reason."""
    return tuple(
        LeftOut(
            reason=reason,
            num_entries=len(each),
            examples=tuple(printable(name) for name in each[:MAX_NAMED]),
        )
        for reason, each in names.items()
        if each
    )


def unmatched_patterns(files: OwnFiles, *, used: Collection[str]) -> tuple[str, ...]:
    """Returns a remark on the patterns of `ignore` that leave nothing out, if there are any."""
    unused = [repr(each) for each in files.ignore if each not in used]
    if not unused:
        return ()
    hint = "; a pattern with a slash is compared with whole paths below it, such as `train/drafts`"
    return (
        f"no file or folder in {files.place} matches {first_names(unused)} under `ignore`"
        + hint * any("/" in each for each in unused),
    )

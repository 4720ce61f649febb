"""Warns about tasks whose images or class names make a study's results doubtful."""

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from eval.class_names import alike_names
from eval.counts import counted, first_names
from eval.file_tree import printable
from orchestrator.plan.images_left import ImagesLeft, Ints, SplitName, TaskImages

FEW_OF_CLASS: Mapping[SplitName, int] = {"train": 5, "test": 3}
"""A class with fewer images in a split is warned about."""
FEW_TEST_IMAGES = 20
"""A task with fewer test images is warned about: each of them is 5 % of the accuracy or more."""
NUM_GROUPS_NAMED = 3
"""The number of groups of similar class names that a warning names."""
_NOUNS: Mapping[SplitName, str] = {"train": "training", "test": "test"}


class Rank(IntEnum):
    """Kinds of warnings, the most serious first."""

    SAME_TASK = 0
    EMPTY_CLASS = 1
    SHARED_IMAGE = 2
    CONTRADICTION = 3
    SKIPPED_IMAGE = 4
    SMALL_CLASS = 5
    SMALL_TEST = 6
    BATCH = 7
    CLASS_NAMES = 8


class DataWarning(NamedTuple):
    """A warning on a task's data."""

    rank: Rank
    text: str
    """A sentence that begins with the task's name."""


def data_warnings(tasks: Sequence[TaskImages]) -> Iterator[DataWarning]:
    """Yields what a user should know about the counts and the class names of a study's tasks."""
    for task in tasks:
        for split, stored in task.stored.items():
            yield from _stored_warnings(task, split=split, stored=stored)
        yield from _ratio_warnings(task)
        yield from _test_warnings(task)
        yield from _batch_warnings(task)
        yield from _name_warnings(task)
    yield from _same_warnings(tasks)


def _stored_warnings(
    task: TaskImages, *, split: SplitName, stored: Sequence[ImagesLeft]
) -> Iterator[DataWarning]:
    for before, left in zip((None, *stored), stored, strict=False):
        found = _thin(task, left, before=before, split=split)
        if found is not None:
            subject = f"{left.limit} leaves" if left.limit else "its files have"
            yield DataWarning(found.rank, f"{task.name}: {subject} {found.text}")


def _ratio_warnings(task: TaskImages) -> Iterator[DataWarning]:
    """Warns about the smallest data ratio, and names others that leave classes too small."""
    before = task.stored["train"][-1]
    found = [
        (left, thin)
        for ratio, left in task.trained_on.items()
        if ratio < 1 and (thin := _thin(task, left, before=before, split="train"))
    ]
    if found:
        left, thin = found[-1]
        others = [other.limit.removeprefix("data_ratio: ") for other, _ in found[:-1]]
        also = f"; also some classes at {first_names(others)}" if others else ""
        yield DataWarning(thin.rank, f"{task.name}: {left.limit} leaves {thin.text}{also}")


def _thin(
    task: TaskImages, left: ImagesLeft, *, before: ImagesLeft | None, split: SplitName
) -> DataWarning | None:
    """Returns the classes that a limit leaves with few images, in words; None if there are none.

    Classes that were as small before the limit are not among them.
    """
    few, classes, noun = FEW_OF_CLASS[split], task.task.classes, _NOUNS[split]
    if left.per_class is None:
        return _thin_in_all(task, left, before=before, split=split)
    was = left.per_class + few if before is None or before.per_class is None else before.per_class
    empty = np.flatnonzero((left.per_class == 0) & (was > 0))
    small = np.flatnonzero((left.per_class > 0) & (left.per_class < few) & (was >= few))
    num, total = len(empty) or len(small), len(classes)
    subject = f"all {total:,} classes" if num == total else f"{num:,} of {total:,} classes"
    if len(empty):
        text = f"{subject} without a {noun} image{_names(empty, classes)}"
        if len(small):
            text += f", and {len(small):,} with fewer than {few}{_names(small, classes)}"
        return DataWarning(Rank.EMPTY_CLASS, text)
    if len(small):
        text = f"{subject} with fewer than {few} {noun} images{_names(small, classes)}"
        return DataWarning(Rank.SMALL_CLASS, text)
    return None


def _thin_in_all(
    task: TaskImages, left: ImagesLeft, *, before: ImagesLeft | None, split: SplitName
) -> DataWarning | None:
    """Judges a split by its number of images alone, as labels are not known yet."""
    num, num_classes, few = left.num_images, task.task.num_classes, FEW_OF_CLASS[split]
    was = num + few * num_classes if before is None else before.num_images
    images = f"{counted(num, f'{_NOUNS[split]} image')} for {num_classes:,} classes"
    if num < num_classes <= was:
        return DataWarning(Rank.EMPTY_CLASS, f"{images}: {num_classes - num:,} or more have none")
    if num < few * num_classes <= was:
        return DataWarning(Rank.SMALL_CLASS, f"{images}: some have fewer than {few}")
    return None


def _names(numbers: Ints, classes: Sequence[str]) -> str:
    if len(numbers) == len(classes):
        return ""
    return f" ({first_names(printable(classes[number]) for number in numbers)})"


def _test_warnings(task: TaskImages) -> Iterator[DataWarning]:
    num = task.stored["test"][-1].num_images
    if 0 < num < FEW_TEST_IMAGES:
        images = counted(num, "test image")
        text = f"{task.name}: {images}, so that each is {1 / num:.0%} of its accuracy"
        yield DataWarning(Rank.SMALL_TEST, text)


def _batch_warnings(task: TaskImages) -> Iterator[DataWarning]:
    too_large = [
        (batch_size / left.num_images, batch_size, left)
        for batch_size, ratio in task.batches
        if batch_size > (left := task.trained_on[ratio]).num_images
    ]
    if too_large:
        _, batch_size, left = max(too_large, key=lambda each: each[0])
        at = f" at {left.limit}" if left.limit else ""
        yield DataWarning(
            Rank.BATCH,
            f"{task.name}: batch_size: {batch_size} is more than the "
            f"{counted(left.num_images, 'training image')}{at}: every step repeats some",
        )


def _same_warnings(tasks: Sequence[TaskImages]) -> Iterator[DataWarning]:
    """Warns about tasks with the same files, as when a path was copied and not changed."""
    names: dict[str, list[str]] = {}
    for task in tasks:
        names.setdefault(task.task.fingerprint, []).append(task.name)
    for same in names.values():
        if len(same) > 1:
            text = f"{' and '.join(same)}: they are one task, with the same images and labels"
            yield DataWarning(Rank.SAME_TASK, text)


def _name_warnings(task: TaskImages) -> Iterator[DataWarning]:
    alike = alike_names(task.task.classes)
    if alike:
        named = [" and ".join(ascii(each) for each in group) for group in alike]
        more = f"; {len(alike) - NUM_GROUPS_NAMED} more" if len(alike) > NUM_GROUPS_NAMED else ""
        yield DataWarning(
            Rank.CLASS_NAMES,
            f"{task.name}: class names look alike: {'; '.join(named[:NUM_GROUPS_NAMED])}{more}",
        )

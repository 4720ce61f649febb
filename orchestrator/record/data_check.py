"""The facts about a study's data that a user should look at before anything is trained."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from eval.file_tree import printable
from orchestrator.plan.data_warnings import DataWarning, Rank, data_warnings
from orchestrator.plan.images_left import ImagesLeft, TaskImages, images_left
from orchestrator.record.committed import Committed
from workers.artifacts.metrics import DataMetrics, ImagePairs, SkippedImages
from workers.sampling.batches import num_in_subset

NUM_SHOWN = 2
"""The number of images, or pairs of equal images, that a warning names; the manifest has more."""

SKIPPING = "on_bad_image: skip"
"""The setting that leaves out images that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """The images of one split of a task that the study keeps."""

    num_images: int
    num_available: int
    """Images before `max_train` or `max_test`, before a part is held out, and before images that
    cannot be used are skipped."""
    per_class: tuple[int, float, int] | None
    """Least, median and most images of a class; None before the labels are known."""


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """The data of one task."""

    task: str
    num_classes: int
    train: SplitFacts
    test: SplitFacts
    left_out: tuple[str, ...]
    """For each reason to leave files out, a text with their number and the reason."""
    remarks: tuple[str, ...]
    """Sentences about anything else in the files that a user should look at."""
    shared: ImagePairs | None
    """Test images that are training images too; None before the images are prepared, and for
    images that an earlier release prepared."""
    contradictions: ImagePairs | None
    """Training images that are there with another label too; None as for `shared`."""
    skipped: SkippedImages | None
    """Images that were chosen and could not be used; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """The data of a study's tasks, with warnings."""

    tasks: tuple[TaskFacts, ...]
    """In the order of the plan; tasks of the pretraining come last."""
    warnings: tuple[str, ...]
    """Sentences that begin with a task's name, the most serious first."""

    @property
    def has_no_pairs(self) -> bool:
        """Returns whether all images are compared, and none is in both splits or has two labels."""
        pairs = [pair for task in self.tasks for pair in (task.shared, task.contradictions)]
        return all(pair is not None and not pair.num_images for pair in pairs)

    def to_json(self) -> dict[str, Any]:
        """Returns the check as plain values."""
        return {"tasks": [asdict(task) for task in self.tasks], "warnings": list(self.warnings)}


def check_data(committed: Committed) -> DataCheck:
    """Counts the images of a study's tasks, and looks for anything doubtful among them.

    Counts by class come from the images' manifests, if they are prepared, and else from the tasks'
    files. Equal images are known from the manifests alone.
    """
    metrics = prepared_data(committed)
    left = images_left(committed.plan)
    tasks = [_as_prepared(task, metrics.get(task.name)) for task in left]
    warnings = [*data_warnings(tasks)]
    for name, of_task in metrics.items():
        warnings += _prepared_warnings(name, of_task)
    return DataCheck(
        tasks=tuple(_facts(task, metrics.get(task.name)) for task in tasks),
        warnings=tuple(
            warning.text for warning in sorted(warnings, key=lambda warning: warning.rank)
        ),
    )


def prepared_data(committed: Committed) -> dict[str, DataMetrics]:
    """Returns the metrics of the prepared images by task, in the plan's order."""
    return {
        spec.task: DataMetrics.from_json(committed.prepared[spec.id].metrics)
        for spec in committed.plan.datasets
        if spec.id in committed.prepared
    }


def least_median_most(counts: Iterable[int]) -> tuple[int, float, int]:
    """Returns the least, the median and the most images of a class."""
    of_class = np.fromiter(counts, dtype=np.int64)
    return int(of_class.min()), float(np.median(of_class)), int(of_class.max())


def _as_prepared(task: TaskImages, metrics: DataMetrics | None) -> TaskImages:
    """Returns the images of a task with the counts of the prepared ones, if they are known.

    If images were skipped, the classes of the images that a data ratio keeps are no longer known.
    """
    if metrics is None or metrics.class_counts is None:
        return task
    stored = {}
    for split, left in task.stored.items():
        counts = np.array(metrics.class_counts[split])
        if metrics.skipped is None:
            stored[split] = (*left[:-1], replace(left[-1], per_class=counts))
        else:
            usable = ImagesLeft(limit=SKIPPING, num_images=int(counts.sum()), per_class=counts)
            stored[split] = (*left, usable)
    if metrics.skipped is None:
        return replace(task, stored=stored)
    trained_on = {
        ratio: replace(
            left, num_images=num_in_subset(metrics.num_train, data_ratio=ratio), per_class=None
        )
        for ratio, left in task.trained_on.items()
    }
    return replace(task, stored=stored, trained_on=trained_on)


def _prepared_warnings(task: str, metrics: DataMetrics) -> Iterator[DataWarning]:
    if metrics.skipped:
        shown, num = metrics.skipped.first[:NUM_SHOWN], metrics.skipped.num_images
        names = "; ".join(map(printable, shown)) + ("; ..." if num > len(shown) else "")
        text = f"{task}: skipped images that cannot be used: {num:,} ({names})"
        yield DataWarning(Rank.SKIPPED_IMAGE, text)
    if metrics.shared and metrics.shared.num_images:
        num = metrics.shared.num_images
        text = f"{num:,} of {metrics.num_test:,} test images are training images too"
        yield DataWarning(Rank.SHARED_IMAGE, f"{task}: {text}: {_named(metrics.shared)}")
    if metrics.contradictions and metrics.contradictions.num_images:
        num = metrics.contradictions.num_images
        text = f"{num:,} of {metrics.num_train:,} training images are there with two labels"
        yield DataWarning(Rank.CONTRADICTION, f"{task}: {text}: {_named(metrics.contradictions)}")


def _named(pairs: ImagePairs) -> str:
    shown = pairs.first[:NUM_SHOWN]
    named = [f"{printable(one)} and {printable(other)}" for one, other in shown]
    return "; ".join(named) + ("; ..." if len(pairs.first) > len(shown) else "")


def _facts(task: TaskImages, metrics: DataMetrics | None) -> TaskFacts:
    return TaskFacts(
        task=task.name,
        num_classes=task.task.num_classes,
        train=_split_facts(task.stored["train"]),
        test=_split_facts(task.stored["test"]),
        left_out=task.left_out,
        remarks=task.remarks,
        shared=None if metrics is None else metrics.shared,
        contradictions=None if metrics is None else metrics.contradictions,
        skipped=None if metrics is None else metrics.skipped,
    )


def _split_facts(stored: Sequence[ImagesLeft]) -> SplitFacts:
    first, last = stored[0], stored[-1]
    counts = last.per_class
    return SplitFacts(
        num_images=last.num_images,
        num_available=first.num_images,
        per_class=None if counts is None else least_median_most(counts),
    )

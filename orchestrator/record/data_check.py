"""The facts about a study's data that a user should look at before anything is trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from orchestrator.plan.data_warnings import data_warnings
from orchestrator.plan.images_left import ImagesLeft, images_left
from orchestrator.record.committed import Committed


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """The images of one split of a task that the study keeps."""

    num_images: int
    num_available: int
    """Images before `max_train` or `max_test`, and before a part is held out."""
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


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """The data of a study's tasks, with warnings."""

    tasks: tuple[TaskFacts, ...]
    """In the order of the plan; tasks of the pretraining come last."""
    warnings: tuple[str, ...]
    """Sentences that begin with a task's name, the most serious first."""

    def to_json(self) -> dict[str, Any]:
        """Returns the check as plain values."""
        return {"tasks": [asdict(task) for task in self.tasks], "warnings": list(self.warnings)}


def check_data(committed: Committed) -> DataCheck:
    """Counts the images of a study's tasks, and looks for anything doubtful among them."""
    tasks = images_left(committed.plan)
    warnings = sorted(data_warnings(tasks), key=lambda warning: warning.rank)
    return DataCheck(
        tasks=tuple(
            TaskFacts(
                task=task.name,
                num_classes=task.task.num_classes,
                train=_facts(task.stored["train"]),
                test=_facts(task.stored["test"]),
                left_out=task.left_out,
                remarks=task.remarks,
            )
            for task in tasks
        ),
        warnings=tuple(warning.text for warning in warnings),
    )


def _facts(stored: Sequence[ImagesLeft]) -> SplitFacts:
    first, last = stored[0], stored[-1]
    counts = last.per_class
    return SplitFacts(
        num_images=last.num_images,
        num_available=first.num_images,
        per_class=None
        if counts is None
        else (int(counts.min()), float(np.median(counts)), int(counts.max())),
    )

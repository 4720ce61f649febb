"""The scores of a model: sums per task, and the two means that are derived from them.

Sums are stored instead of means, so that every mean can be computed later with the right weights.
`macro` averages over tasks. `union` averages over all images of the joint test set, which is the
union of the test sets of a group's tasks. The two means can rank methods differently, so both are
always reported.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TaskSums:
    """Sums over the test images of one task, or of several tasks together."""

    num_examples: int
    """Number of images."""
    num_correct: int
    """Images whose largest logit is that of their class. An image with a NaN logit never counts."""
    loss_sum: float
    """Sum of the cross-entropy, in nats; NaN if a logit was not finite."""

    @property
    def accuracy(self) -> float:
        """Fraction of correct images, in [0, 1]."""
        return self.num_correct / self.num_examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats per image."""
        return self.loss_sum / self.num_examples

    def to_json(self) -> dict[str, int | float | None]:
        """Returns plain values; a loss that is not finite becomes null, because JSON has no NaN."""
        loss = self.loss_sum if math.isfinite(self.loss_sum) else None
        return {
            "num_examples": self.num_examples,
            "num_correct": self.num_correct,
            "loss_sum": loss,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TaskSums":
        """Returns the sums that `to_json` turned into plain values."""
        loss = values["loss_sum"]
        return cls(
            num_examples=values["num_examples"],
            num_correct=values["num_correct"],
            loss_sum=math.nan if loss is None else loss,
        )


@dataclass(frozen=True, kw_only=True)
class Mean:
    """An accuracy and a loss over several tasks."""

    accuracy: float
    """Fraction in [0, 1]."""
    loss: float
    """Nats per image."""


def macro_mean(tasks: Sequence[TaskSums]) -> Mean:
    """Averages over tasks with equal weights.

    Raises:
        ValueError: There is no task.
    """
    if not tasks:
        raise ValueError("a mean over tasks needs at least one task")
    return Mean(
        accuracy=math.fsum(task.accuracy for task in tasks) / len(tasks),
        loss=math.fsum(task.loss for task in tasks) / len(tasks),
    )


def union_mean(tasks: Sequence[TaskSums]) -> Mean:
    """Averages over all images of the joint test set.

    Raises:
        ValueError: There is no task.
    """
    if not tasks:
        raise ValueError("a mean over images needs at least one task")
    num_examples = sum(task.num_examples for task in tasks)
    return Mean(
        accuracy=sum(task.num_correct for task in tasks) / num_examples,
        loss=math.fsum(task.loss_sum for task in tasks) / num_examples,
    )

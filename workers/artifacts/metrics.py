"""Typed views of the metrics in the manifests of experts, pretrained bases and merges.

Workers write metrics with `to_json`, and the driver reads them with `from_json`. This module does
not load torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from eval.metrics import TaskSums

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """The part of the metrics that experts and pretrained bases have in common."""

    train_loss: float | None
    """Mean over the last tenth of the steps, in nats per image; None if no step was taken."""
    train_curve: tuple[tuple[int, float], ...]
    """Pairs of a step and the mean loss since the pair before it, in nats per image."""
    num_classes: int
    """Classes of the head that was trained."""
    steps_taken: int
    """Fewer than the specification says if a loss was not finite."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return {
            "train_loss": self.train_loss,
            "train_curve": [list(point) for point in self.train_curve],
            "num_classes": self.num_classes,
            "steps_taken": self.steps_taken,
        }

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of the metrics of an expert or of a pretrained base."""
        return cls(
            train_loss=metrics["train_loss"],
            train_curve=tuple((step, loss) for step, loss in metrics["train_curve"]),
            num_classes=metrics["num_classes"],
            steps_taken=metrics["steps_taken"],
        )


@dataclass(frozen=True, kw_only=True)
class ExpertMetrics:
    """The metrics of an expert."""

    training: TrainingMetrics
    test: TaskSums | None
    """The expert on the test images of its task; None if its weights are not finite."""
    base: TaskSums | None
    """The base under the expert's head on the same images; None if the weights are not finite."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return {
            **self.training.to_json(),
            "test": None if self.test is None else self.test.to_json(),
            "base": None if self.base is None else self.base.to_json(),
        }

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of an expert's metrics."""
        test, base = metrics["test"], metrics["base"]
        return cls(
            training=TrainingMetrics.from_json(metrics),
            test=None if test is None else TaskSums.from_json(test),
            base=None if base is None else TaskSums.from_json(base),
        )


@dataclass(frozen=True, kw_only=True)
class PretrainMetrics:
    """The metrics of a pretrained base."""

    training: TrainingMetrics
    num_entries: int
    """Entries of all tensors of the backbone together."""
    tasks: Mapping[str, TaskSums] | None
    """The joint head on the test images of each task; None if the weights are not finite."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return {
            **self.training.to_json(),
            "num_entries": self.num_entries,
            "tasks": None if self.tasks is None else _tasks_to_json(self.tasks),
        }


@dataclass(frozen=True, kw_only=True)
class MergeMetrics:
    """The metrics of a merge."""

    tasks: Mapping[str, TaskSums]
    """The merged model on the test images of each task, held-out tasks included."""
    coverage: float
    """Fraction of the weight entries on which the method is more than an average, in [0, 1]."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return {"tasks": _tasks_to_json(self.tasks), "coverage": self.coverage}

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of a merge's metrics."""
        tasks = {task: TaskSums.from_json(sums) for task, sums in metrics["tasks"].items()}
        return cls(tasks=tasks, coverage=metrics["coverage"])


def steps_taken(metrics: Json) -> int:
    """Returns the steps of an expert or a pretrained base, without reading its loss curve."""
    return int(metrics["steps_taken"])


def _tasks_to_json(tasks: Mapping[str, TaskSums]) -> dict[str, Any]:
    return {task: sums.to_json() for task, sums in tasks.items()}

"""Typed views of the metrics in the manifests of images, experts, pretrained bases and merges.

Workers write metrics with `to_json`, and the driver reads them with `from_json`. This module does
not load torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from eval.metrics import TaskSums, macro_mean
from workers.artifacts.joint_metrics import JointMetrics
from workers.specs.data import EvaluateOn

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ImagePairs:
    """Images that are equal to another image of their task, counted, with the first pairs."""

    num_images: int
    """Images that have such a partner."""
    first: tuple[tuple[str, str], ...]
    """Names of the first pairs."""


@dataclass(frozen=True, kw_only=True)
class SkippedImages:
    """Images of a task that cannot be used, left out at the user's wish."""

    num_images: int
    first: tuple[str, ...]
    """Names of the first ones, each with the reason."""


@dataclass(frozen=True, kw_only=True)
class DataMetrics:
    """The metrics of a task's images. Manifests of earlier releases lack those that may be None."""

    num_classes: int
    num_train: int
    num_test: int
    images_per_shard: int
    """Images in every shard but a split's last."""
    class_counts: Mapping[str, tuple[int, ...]] | None
    """Images of each class, by split."""
    shared: ImagePairs | None
    """Test images that are training images too."""
    contradictions: ImagePairs | None
    """Training images that are there with another label too."""
    skipped: SkippedImages | None = None
    """Images that were chosen and could not be used; None if there are none."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return asdict(self)

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of the metrics of a task's images."""
        counts = metrics.get("class_counts")
        return cls(
            num_classes=metrics["num_classes"],
            num_train=metrics["num_train"],
            num_test=metrics["num_test"],
            images_per_shard=metrics["images_per_shard"],
            class_counts=counts and {split: tuple(each) for split, each in counts.items()},
            shared=_pairs_from_json(metrics.get("shared")),
            contradictions=_pairs_from_json(metrics.get("contradictions")),
            skipped=_skipped_from_json(metrics.get("skipped")),
        )


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
    """The expert on the test images of its task; None if its weights are not finite, or if it is
    evaluated on validation images."""
    base: TaskSums | None
    """The base under the expert's head on the same images; None if `test` is."""
    validation: TaskSums | None = None
    """The expert on the validation images of its task; None if it is evaluated on test images."""
    validation_base: TaskSums | None = None
    """The base under the expert's head on the validation images."""

    @classmethod
    def of(
        cls,
        expert: TaskSums,
        base: TaskSums,
        *,
        training: TrainingMetrics,
        evaluate_on: EvaluateOn,
    ) -> Self:
        """Returns the metrics of an expert that was evaluated on some images."""
        if evaluate_on == "test":
            return cls(training=training, test=expert, base=base)
        return cls(training=training, test=None, base=None, validation=expert, validation_base=base)

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        validation = {
            name: sums.to_json()
            for name in ("validation", "validation_base")
            if (sums := getattr(self, name)) is not None
        }
        return {
            **validation,
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
            **{
                name: TaskSums.from_json(metrics[name])
                for name in ("validation", "validation_base")
                if name in metrics
            },
        )


@dataclass(frozen=True, kw_only=True)
class PretrainMetrics:
    """The metrics of a pretrained base."""

    training: TrainingMetrics
    num_entries: int
    """Entries of all tensors of the backbone together."""
    tasks: Mapping[str, TaskSums] | None
    """The joint head, or each task's own, on the test images of each task; None if the weights are
    not finite."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return {
            **self.training.to_json(),
            "num_entries": self.num_entries,
            "tasks": None if self.tasks is None else _tasks_to_json(self.tasks),
        }


@dataclass(frozen=True, kw_only=True)
class TriedPoint:
    """A combination of values that a merge tried, with its scores on validation images."""

    values: Mapping[str, float]
    """By parameter."""
    loss: float
    """Mean over the group's tasks, nats per image; NaN if it, or the merge, is not finite."""
    accuracy: float
    """Mean over the group's tasks, a fraction in [0, 1]."""

    @classmethod
    def of(cls, values: Mapping[str, float], *, sums: Sequence[TaskSums]) -> Self:
        """Returns the point with the sums of each task; no sums for a merge that is not finite."""
        if not sums:
            return cls(values=values, loss=math.nan, accuracy=0.0)
        mean = macro_mean(sums)
        return cls(values=values, loss=mean.loss, accuracy=mean.accuracy)

    def to_json(self) -> dict[str, Any]:
        """Returns the point as the manifest stores it; JSON has no NaN."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"values": dict(self.values), "loss": loss, "accuracy": self.accuracy}

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """Returns the point that `to_json` turned into plain values."""
        loss = math.nan if values["loss"] is None else values["loss"]
        return cls(values=values["values"], loss=loss, accuracy=values["accuracy"])


@dataclass(frozen=True, kw_only=True)
class TuningMetrics:
    """The values that a merge chose on validation images, and everything that it tried."""

    chosen: Mapping[str, float]
    """The value of each tuned parameter that the merge was made with."""
    tried: tuple[TriedPoint, ...]
    """In the order of `TuningSpec.points`."""
    num_images: int
    """Validation images of all tasks together; each combination took one pass over them."""

    @property
    def best(self) -> TriedPoint:
        """The point that was chosen."""
        return next(each for each in self.tried if each.values == self.chosen)

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return {
            "chosen": dict(self.chosen),
            "tried": [each.to_json() for each in self.tried],
            "num_images": self.num_images,
        }

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of a merge's tuning."""
        tried = tuple(TriedPoint.from_json(each) for each in metrics["tried"])
        return cls(chosen=metrics["chosen"], tried=tried, num_images=metrics["num_images"])


@dataclass(frozen=True, kw_only=True)
class MergeMetrics:
    """The metrics of a merge."""

    tasks: Mapping[str, TaskSums]
    """The merged model on each task, held-out tasks included: on test images, or on validation
    images if the specification says so. Empty for a candidate of a search whose merge is not
    finite."""
    coverage: float
    """Fraction of the weight entries on which the method is more than an average, in [0, 1]."""
    weights_sha256: str | None = None
    """Digest of all weights that were evaluated (`workers.merging.weights_digest`); None in
    manifests of earlier releases."""
    tuning: TuningMetrics | None = None
    """The choice of tuned parameters; None if none is tuned."""
    experts: Mapping[str, tuple[TaskSums, TaskSums]] = field(default_factory=dict)
    """Each expert, and the base under its head, on the test images of its task, if the experts'
    own manifests lack them because they were evaluated on validation images."""
    joint: JointMetrics | None = None
    """The scores under the heads of the whole group; None if the specification asks for none."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        fields = {"tasks": _tasks_to_json(self.tasks), "coverage": self.coverage}
        if self.weights_sha256 is not None:
            fields["weights_sha256"] = self.weights_sha256
        if self.tuning is not None:
            fields["tuning"] = self.tuning.to_json()
        if self.experts:
            fields["experts"] = {
                task: [sums.to_json() for sums in pair] for task, pair in self.experts.items()
            }
        return fields if self.joint is None else {**fields, "joint": self.joint.to_json()}

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of a merge's metrics."""
        tasks = {task: TaskSums.from_json(sums) for task, sums in metrics["tasks"].items()}
        return cls(
            tasks=tasks,
            experts={
                task: (TaskSums.from_json(expert), TaskSums.from_json(base))
                for task, (expert, base) in metrics.get("experts", {}).items()
            },
            coverage=metrics["coverage"],
            weights_sha256=metrics.get("weights_sha256"),
            tuning=tuning_of(metrics),
            joint=JointMetrics.from_json(metrics["joint"]) if "joint" in metrics else None,
        )


def tuning_of(metrics: Json) -> TuningMetrics | None:
    """Returns a merge's choice of parameters, without reading other metrics; None without one."""
    return TuningMetrics.from_json(metrics["tuning"]) if "tuning" in metrics else None


def merged_params(spec: Json, metrics: Json) -> dict[str, Any]:
    """Returns the parameters that a committed merge was made with, tuned ones included.

    Args:
        spec: The specification in the merge's manifest, in which tuned parameters are null.
        metrics: The metrics in the manifest, which have the chosen values.
    """
    tuning = tuning_of(metrics)
    return {**spec["params"], **(tuning.chosen if tuning is not None else {})}


def steps_taken(metrics: Json) -> int:
    """Returns the steps of an expert or a pretrained base, without reading its loss curve."""
    return int(metrics["steps_taken"])


def num_skipped_images(metrics: Json) -> int:
    """Returns the number of a task's images that were skipped, without reading other metrics."""
    skipped = _skipped_from_json(metrics.get("skipped"))
    return 0 if skipped is None else skipped.num_images


def _pairs_from_json(values: Json | None) -> ImagePairs | None:
    if values is None:
        return None
    first = tuple((one, other) for one, other in values["first"])
    return ImagePairs(num_images=values["num_images"], first=first)


def _skipped_from_json(values: Json | None) -> SkippedImages | None:
    if values is None:
        return None
    return SkippedImages(num_images=values["num_images"], first=tuple(values["first"]))


def _tasks_to_json(tasks: Mapping[str, TaskSums]) -> dict[str, Any]:
    return {task: sums.to_json() for task, sums in tasks.items()}

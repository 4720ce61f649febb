"""The specifications of bases and experts, and of the trainings that make them."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from workers.specs.hyperparameters import (
    Hyperparameters,
    TrainingConstants,
    training_from_json,
    training_to_json,
)
from workers.specs.ids import VERSIONS, content_id

Output = TypeVar("Output", "BaseSpec", "ExpertSpec")

_PRETRAINED_WITH: dict[str, Any] = {
    "data_ratio": 1.0,
    "warmup_steps": 0,
    "head": {"mode": "trained", "l2": 0.0},
    "average_weights": {"mode": "none", "ema_decay": 0.0, "swa_start": 0.0},
    "augment": "none",
    "linearised": False,
    "freeze_batch_norm": False,
}
"""JSON of the settings that no pretraining varies yet; left out, so that ids do not change."""


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """Supervised training of a base on several tasks at once, under one head over all classes."""

    tasks: tuple[str, ...]
    """Ordered by name: the order of their classes in the joint head."""
    data_ids: tuple[str, ...]
    """The images of each of `tasks`."""
    hyperparameters: Hyperparameters
    """Of the joint training; a batch mixes the images of all tasks, each image as likely as any."""
    constants: TrainingConstants
    trains_head: ClassVar[bool] = True
    evaluates_base: ClassVar[bool] = False
    """Whether the base itself is evaluated on the tasks' test images."""

    def to_json(self) -> dict[str, Any]:
        """Returns the values that a base's manifest stores."""
        training = training_to_json(self.hyperparameters, self.constants)
        return {
            "tasks": self.tasks,
            "data_ids": self.data_ids,
            **{
                name: value
                for name, value in training.items()
                if name not in _PRETRAINED_WITH or value != _PRETRAINED_WITH[name]
            },
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "PretrainSpec":
        """Returns the pretraining that `to_json` wrote.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is unknown.
        """
        whole = {**_PRETRAINED_WITH, **values}
        hyperparameters, constants, rest = training_from_json(whole)
        lists = {name: tuple(rest.pop(name)) for name in ("tasks", "data_ids")}
        return PretrainSpec(hyperparameters=hyperparameters, constants=constants, **lists, **rest)


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """The pretrained backbone that experts start from."""

    model: str
    """A timm model name."""
    weights: str
    """`sha256:` and the digest of a checkpoint, `timm` for timm's hub, `none` for random ones."""
    seed: int
    """Seeds the initial weights where `weights` is `none`; 0 otherwise."""
    pretrain: PretrainSpec | None = None
    """What is done to these weights before any expert starts from them; None for nothing."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = self.to_json()
        inputs = spec["pretrain"].pop("data_ids") if self.pretrain else ()
        return content_id("base", version=VERSIONS["base"], spec=spec, inputs=inputs)

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""
        pretrain = None if self.pretrain is None else self.pretrain.to_json()
        return {
            "model": self.model,
            "weights": self.weights,
            "seed": self.seed,
            "pretrain": pretrain,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "BaseSpec":
        """Returns the base that `to_json` wrote.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        pretrain = values.get("pretrain")
        spec = None if pretrain is None else PretrainSpec.from_json(pretrain)
        return BaseSpec(**{**values, "pretrain": spec})

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The hyperparameters of the pretraining, of a base that has one."""
        assert self.pretrain is not None
        return self.pretrain.hyperparameters

    def with_steps(self, steps: int) -> "BaseSpec":
        """Returns the base of the same pretraining after another number of steps."""
        assert self.pretrain is not None
        hyperparameters = replace(self.hyperparameters, steps=steps)
        return replace(self, pretrain=replace(self.pretrain, hyperparameters=hyperparameters))

    @property
    def initial(self) -> "BaseSpec":
        """The base that the pretraining starts from; itself where there is none."""
        return replace(self, pretrain=None)


@dataclass(frozen=True, kw_only=True)
class BaseJob:
    """A base without pretraining to commit, and where its checkpoint lies."""

    spec: BaseSpec
    path: str | None
    """A checkpoint's file or `s3://` URL; None for the packaged one, timm's hub or random weights.
    """


@dataclass(frozen=True, kw_only=True)
class ExpertSpec:
    """One snapshot of one fine-tuning run."""

    task: str
    base_id: str
    data_id: str
    hyperparameters: Hyperparameters
    constants: TrainingConstants
    head_id: str | None = None
    """A zero-shot head that is never trained; None for a head that `hyperparameters` describe."""

    evaluates_base: ClassVar[bool] = True
    """Whether the base itself is evaluated on the task's test images."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The one task, as a pretraining has several."""
        return (self.task,)

    @property
    def trains_head(self) -> bool:
        """Whether the classifier is trained with the backbone."""
        return self.hyperparameters.head != "frozen" and self.head_id is None

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = {key: value for key, value in self.to_json().items() if not key.endswith("_id")}
        inputs = (self.base_id, self.data_id, *([self.head_id] if self.head_id else ()))
        return content_id("expert", version=VERSIONS["expert"], spec=spec, inputs=inputs)

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""
        return {
            "task": self.task,
            "base_id": self.base_id,
            "data_id": self.data_id,
            "head_id": self.head_id,
            **training_to_json(self.hyperparameters, self.constants),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ExpertSpec":
        """Returns the expert that `to_json` wrote.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is unknown.
        """
        hyperparameters, constants, rest = training_from_json(values)
        return ExpertSpec(hyperparameters=hyperparameters, constants=constants, **rest)

    def with_steps(self, steps: int) -> "ExpertSpec":
        """Returns the expert of the same training after another number of steps."""
        return replace(self, hyperparameters=replace(self.hyperparameters, steps=steps))


@dataclass(frozen=True, kw_only=True)
class TrainingSpec(ABC, Generic[Output]):
    """One training: optimizer steps from a base, with an artifact committed at each snapshot.

    Trials make experts and pretraining makes bases. Ray Tune schedules both as its trials.
    """

    longest: Output
    """The artifact after the most steps."""
    snapshots: tuple[int, ...]
    """Step counts at which an artifact is committed, ascending; the last is that of `longest`."""

    output_kind: ClassVar[Literal["base", "expert"]]
    """The kind of the artifacts that the training commits."""

    @classmethod
    def sharing_prefixes(cls, outputs: Iterable[Output]) -> tuple[Self, ...]:
        """Returns the trainings that make some artifacts in as few steps as possible.

        Artifacts that differ only in the number of steps are snapshots of one training, unless a
        step depends on the total number of steps, as under a cosine schedule.
        """
        by_prefix: dict[Output, dict[int, Output]] = {}
        for output in outputs:
            hyperparameters = output.hyperparameters
            prefix = output if hyperparameters.depends_on_total else output.with_steps(0)
            by_prefix.setdefault(prefix, {})[hyperparameters.steps] = output
        return tuple(
            cls(longest=by_steps[max(by_steps)], snapshots=tuple(sorted(by_steps)))
            for by_steps in by_prefix.values()
        )

    @property
    @abstractmethod
    def base_id(self) -> str:
        """The id of the base that the training starts from."""

    @property
    @abstractmethod
    def recipe(self) -> "PretrainSpec | ExpertSpec":
        """The data, hyperparameters and constants of the training's steps."""

    @property
    @abstractmethod
    def label(self) -> str:
        """A name for people; several trainings of a study may have the same."""

    @property
    def id(self) -> str:
        """The id of the longest training's artifact."""
        return self.longest.id

    @property
    def num_steps(self) -> int:
        """The number of optimizer steps."""
        return self.snapshots[-1]

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """The artifacts that the training commits: one for each of `snapshots`, in their order."""
        return tuple(
            self.longest if steps == self.num_steps else self.longest.with_steps(steps)
            for steps in self.snapshots
        )

    def without(self, committed: Container[str]) -> Self | None:
        """Returns the remainder of the training; None if all its artifacts are committed.

        Args:
            committed: Ids of committed artifacts. The remainder leaves their snapshots out, and
                ends at the last missing one.
        """
        left = [output for output in self.outputs if output.id not in committed]
        if not left:
            return None
        snapshots = tuple(output.hyperparameters.steps for output in left)
        return replace(self, longest=left[-1], snapshots=snapshots)


@dataclass(frozen=True, kw_only=True)
class Pretraining(TrainingSpec[BaseSpec]):
    """The pretraining of a base on several tasks at once."""

    output_kind = "base"

    @property
    def base_id(self) -> str:
        """The id of the base that the pretraining starts from."""
        return self.longest.initial.id

    @property
    def recipe(self) -> PretrainSpec:
        """The data, hyperparameters and constants of the steps."""
        assert self.longest.pretrain is not None
        return self.longest.pretrain

    @property
    def label(self) -> str:
        """`pretraining` and the model's name."""
        return f"pretraining {self.longest.model}"


@dataclass(frozen=True, kw_only=True)
class TrialSpec(TrainingSpec[ExpertSpec]):
    """The fine-tuning of a base on one task."""

    output_kind = "expert"

    @property
    def base_id(self) -> str:
        """The id of the base that is fine-tuned."""
        return self.longest.base_id

    @property
    def recipe(self) -> ExpertSpec:
        """The data, hyperparameters and constants of the steps."""
        return self.longest

    @property
    def label(self) -> str:
        """The task and the learning rate."""
        return f"{self.longest.task} lr={self.longest.hyperparameters.lr}"


Training = Pretraining | TrialSpec

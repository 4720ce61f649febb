"""The specifications of bases and experts, and the jobs and runs that make them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from workers.specs.hyperparameters import (
    Hyperparameters,
    TrainingConstants,
    training_from_json,
    training_to_json,
)
from workers.specs.ids import VERSIONS, content_id

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

    def with_steps(self, steps: int) -> "BaseSpec":
        """Returns the base of the same pretraining after another number of steps."""
        assert self.pretrain is not None
        hyperparameters = replace(self.pretrain.hyperparameters, steps=steps)
        pretrain = replace(self.pretrain, hyperparameters=hyperparameters)
        return replace(self, pretrain=pretrain)

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
class PretrainRun:
    """One pretraining run, which Ray Tune schedules as a trial: a base at each snapshot."""

    longest: BaseSpec
    """The base with the most steps."""
    snapshots: tuple[int, ...]
    """Step counts at which a base is committed, ascending; the last is that of `longest`."""

    @property
    def pretrain(self) -> PretrainSpec:
        """How the longest base is trained."""
        assert self.longest.pretrain is not None
        return self.longest.pretrain

    @cached_property
    def id(self) -> str:
        """The id of the longest base, whose making makes the others."""
        return self.longest.id

    @property
    def num_steps(self) -> int:
        """Optimizer steps that the run takes."""
        return self.pretrain.hyperparameters.steps

    @cached_property
    def bases(self) -> tuple[BaseSpec, ...]:
        """The bases that the run commits, by ascending step count."""
        return tuple(self.longest.with_steps(steps) for steps in self.snapshots)

    @property
    def base_id(self) -> str:
        """The id of the base that the training starts from."""
        return self.longest.initial.id

    @property
    def outputs(self) -> tuple[BaseSpec, ...]:
        """The artifacts that the training commits, by ascending step count."""
        return self.bases

    def without(self, committed: Iterable[str]) -> "PretrainRun | None":
        """Returns the run that is left when some bases exist; None when all do."""
        gone = set(committed)
        left = [
            steps
            for base, steps in zip(self.bases, self.snapshots, strict=True)
            if base.id not in gone
        ]
        if not left:
            return None
        return PretrainRun(longest=self.longest.with_steps(left[-1]), snapshots=tuple(left))


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
class TrialSpec:
    """One fine-tuning run that Ray Tune schedules: it commits an expert at each snapshot."""

    longest: ExpertSpec
    """The expert with the most steps."""
    snapshots: tuple[int, ...]
    """Step counts at which an expert is committed, ascending; the last is `longest.steps`."""

    @cached_property
    def id(self) -> str:
        """The id of the longest expert, whose making makes the others."""
        return self.longest.id

    @property
    def num_steps(self) -> int:
        """Optimizer steps that the run takes."""
        return self.longest.hyperparameters.steps

    @cached_property
    def experts(self) -> tuple[ExpertSpec, ...]:
        """The experts that the run commits, by ascending step count."""
        return tuple(self.longest.with_steps(steps) for steps in self.snapshots)

    @property
    def base_id(self) -> str:
        """The id of the base that the training starts from."""
        return self.longest.base_id

    @property
    def outputs(self) -> tuple[ExpertSpec, ...]:
        """The artifacts that the training commits, by ascending step count."""
        return self.experts

    def without(self, committed: Iterable[str]) -> "TrialSpec | None":
        """Returns the trial that is left when some experts exist; None when all do."""
        gone = set(committed)
        left = [
            steps
            for expert, steps in zip(self.experts, self.snapshots, strict=True)
            if expert.id not in gone
        ]
        if not left:
            return None
        return TrialSpec(longest=self.longest.with_steps(left[-1]), snapshots=tuple(left))


Run = TrialSpec | PretrainRun
"""What Ray Tune schedules: it takes steps and commits at each snapshot."""

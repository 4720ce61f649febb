"""The specification of a base: the weights that experts start from, and their pretraining."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from workers.specs.hyperparameters import (
    Hyperparameters,
    TrainingConstants,
    training_from_json,
    training_to_json,
)
from workers.specs.ids import VERSIONS, content_id

Heads = Literal["joint", "per_task"]
"""The heads under which a base is trained on several tasks."""
_PRETRAINED_WITH: dict[str, Any] = {
    "data_ratio": 1.0,
    "warmup_steps": 0,
    "head": {"mode": "trained", "l2": 0.0},
    "average_weights": {"mode": "none", "ema_decay": 0.0, "swa_start": 0.0},
    "augment": "none",
    "linearised": False,
    "freeze_batch_norm": False,
}
"""Settings of every pretraining, as JSON. They are left out, so that ids stay as they were."""


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """Supervised training of a base on several tasks at once."""

    tasks: tuple[str, ...]
    """Sorted by name, which is the order of their classes in the joint head."""
    data_ids: tuple[str, ...]
    """The ids of the images of `tasks`, in their order."""
    hyperparameters: Hyperparameters
    """A batch mixes the images of all tasks; every image is as likely as any other."""
    constants: TrainingConstants
    heads: Heads = "joint"
    """`joint`: one head over the classes of all tasks. `per_task`: one head per task, whose loss
    sees the classes of that task only, as in a multi-task model; the heads are part of the
    artifact."""
    trains_head: ClassVar[bool] = True
    """True: the joint head is trained with the backbone."""
    evaluates_base: ClassVar[bool] = False
    """False: the base that the pretraining starts from is not evaluated."""

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the base's manifest stores."""
        training = training_to_json(self.hyperparameters, self.constants)
        heads = {} if self.heads == "joint" else {"heads": self.heads}
        return {
            "tasks": self.tasks,
            "data_ids": self.data_ids,
            **heads,
            **{
                name: value
                for name, value in training.items()
                if name not in _PRETRAINED_WITH or value != _PRETRAINED_WITH[name]
            },
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "PretrainSpec":
        """Returns the pretraining whose `to_json` returned the values.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is unknown.
        """
        whole = {**_PRETRAINED_WITH, **values}
        hyperparameters, constants, rest = training_from_json(whole)
        lists: dict[str, Any] = {name: tuple(rest.pop(name)) for name in ("tasks", "data_ids")}
        return PretrainSpec(hyperparameters=hyperparameters, constants=constants, **lists, **rest)


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """The backbone's weights that experts start from."""

    model: str
    """A timm model name."""
    weights: str
    """`sha256:` and a checkpoint's digest, `timm` for timm's hub, or `none` for random weights."""
    seed: int
    """Seeds the random weights if `weights` is `none`; 0 otherwise."""
    pretrain: PretrainSpec | None = None
    """Training of these weights that makes the base; None for none."""
    image_size: int | None = None
    """Height and width of the images that the model is built for, to which pretrained weights are
    interpolated; None for the model's own size, at which most models take images of any size."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = self.to_json()
        inputs = spec["pretrain"].pop("data_ids") if self.pretrain else ()
        return content_id("base", version=VERSIONS["base"], spec=spec, inputs=inputs)

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""
        pretrain = None if self.pretrain is None else self.pretrain.to_json()
        # Left out at the model's own size, so that ids stay as they were.
        resized = {} if self.image_size is None else {"image_size": self.image_size}
        return {
            "model": self.model,
            "weights": self.weights,
            "seed": self.seed,
            "pretrain": pretrain,
            **resized,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "BaseSpec":
        """Returns the base whose `to_json` returned the values.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        pretrain = values.get("pretrain")
        spec = None if pretrain is None else PretrainSpec.from_json(pretrain)
        return BaseSpec(**{**values, "pretrain": spec})

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The hyperparameters of the pretraining, which the base must have."""
        assert self.pretrain is not None
        return self.pretrain.hyperparameters

    def with_steps(self, steps: int) -> "BaseSpec":
        """Returns the base after another number of steps of the same pretraining."""
        assert self.pretrain is not None
        hyperparameters = replace(self.hyperparameters, steps=steps)
        return replace(self, pretrain=replace(self.pretrain, hyperparameters=hyperparameters))

    @cached_property
    def initial(self) -> "BaseSpec":
        """The base that the pretraining starts from; the base itself without pretraining."""
        return replace(self, pretrain=None)


@dataclass(frozen=True, kw_only=True)
class BaseJob:
    """The making of a base without pretraining."""

    spec: BaseSpec
    path: str | None
    """The checkpoint's file or `s3://` URL; None if the weights come from elsewhere."""

"""The hyperparameters of a training, and the JSON form that ids hash and manifests store."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, TypeVar

OptimizerName = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "linear"]
HeadMode = Literal["trained", "frozen", "probe_first"]
Averaging = Literal["none", "ema", "swa"]
Augmentation = Literal["none", "flip", "crop_flip"]

USED_BY: Mapping[str, Averaging] = {"ema_decay": "ema", "swa_start": "swa"}
"""The kind of `average_weights` that uses a hyperparameter; the other kinds ignore it."""

_NESTED = {
    "optimizer": {
        "name": "optimizer",
        "momentum": "momentum",
        "weight_decay": "weight_decay",
        "nesterov": "nesterov",
        "sam_rho": "sam_rho",
    },
    "head": {"mode": "head", "l2": "probe_l2"},
    "average_weights": {
        "mode": "average_weights",
        "ema_decay": "ema_decay",
        "swa_start": "swa_start",
    },
}
"""The objects inside a specification's JSON, with the field of this module for each of their keys.

All other fields are at the top level under their own names. The form is part of every id.
"""
ADAPTERS: Mapping[str, Any] = {"lora_rank": 0, "lora_alpha": 0.0, "lora_targets": "auto"}
"""The hyperparameters of LoRA with their defaults. A specification's JSON leaves out those at their
defaults, so that ids of experts without adapters stay as they were."""

Part = TypeVar("Part", "Hyperparameters", "TrainingConstants")


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The hyperparameters that a study can vary, at one point of their space.

    A hyperparameter has one name: axis of a study, column of both result tables, parameter in
    MLflow. The fields are in the order of the columns. Their defaults switch a technique off.
    """

    steps: int
    """Optimizer steps."""
    batch_size: int
    """Images per step."""
    lr: float
    """Peak learning rate."""
    data_ratio: float
    """Fraction of the training images, in (0, 1]."""
    optimizer: OptimizerName
    seed: int
    """Seeds the head, the choice and order of the images, augmentation and dropout."""
    weight_decay: float = 0.0
    sam_rho: float = 0.0
    """Radius of sharpness-aware minimization around the optimizer; 0 for none."""
    schedule: Schedule = "constant"
    """The learning rate after the warmup."""
    warmup_steps: int = 0
    """Steps over which the learning rate grows linearly to its peak."""
    head: HeadMode = "trained"
    """`trained`: from random weights, with the backbone. `frozen`: the linear probe of the base's
    features. `probe_first`: trained on from that probe."""
    average_weights: Averaging = "none"
    """The mean over the steps' weights that an expert stores in place of the last ones."""
    ema_decay: float = 0.0
    """For `ema`: factor by which each step reduces the weight of the steps before it."""
    swa_start: float = 0.0
    """For `swa`: fraction of the steps after which the mean begins."""
    augment: Augmentation = "none"
    linearised: bool = False
    """Replaces the backbone by its first-order expansion at the base (`workers.models.tangent`)."""
    lora_rank: int = 0
    """The rank of LoRA's adapters, which are trained in place of the backbone's weights; 0 trains
    the weights themselves."""
    lora_alpha: float = 0.0
    """An adapter's product counts `lora_alpha / lora_rank` times; 0 for twice the rank."""
    lora_targets: str = "auto"
    """The layers with an adapter: `auto`, `all`, or names (`workers.models.lora.targets`)."""

    @property
    def is_known(self) -> bool:
        """Whether they describe a training; an expert that was given as a file has none."""
        return self != UNKNOWN_TRAINING

    @property
    def depends_on_total(self) -> bool:
        """Returns whether a step depends on the total number of steps.

        If not, the first k steps of a long training are a training of k steps.
        """
        return self.schedule != "constant" or self.average_weights == "swa"

    @property
    def trains_adapters(self) -> bool:
        """Returns whether LoRA's adapters are trained in place of the backbone's weights."""
        return self.lora_rank > 0

    @property
    def moves_all_weights(self) -> bool:
        """Returns whether steps move the weights of the backbone's own model.

        The theory of stochastic gradient descent is about such training. Steps of a linearised
        model follow another loss, and steps of adapters move matrices whose product is added.
        """
        return not self.linearised and not self.trains_adapters

    def canonical(self) -> "Hyperparameters":
        """Returns these with unused ones at fixed values, so that they do not change an id.

        An alpha of 0 becomes twice the rank, which it stands for.
        """
        adapters = {"lora_alpha": self.lora_alpha or 2.0 * self.lora_rank}
        return replace(
            self, **self._unused(0.0), **(adapters if self.trains_adapters else ADAPTERS)
        )

    def columns(self) -> dict[str, Any]:
        """Returns the values by column of the result tables; None for unused or unknown ones."""
        if not self.is_known:
            return dict.fromkeys(vars(self))
        adapters = {} if self.trains_adapters else dict.fromkeys(ADAPTERS)
        return {**vars(self), **self._unused(None), **adapters}

    def _unused(self, value: float | None) -> dict[str, Any]:
        return {name: value for name, user in USED_BY.items() if self.average_weights != user}


UNKNOWN_TRAINING = Hyperparameters(
    steps=0, batch_size=0, lr=0.0, data_ratio=1.0, optimizer="sgd", seed=0, head="frozen"
)
"""Stands for the hyperparameters of experts that other people trained."""


@dataclass(frozen=True, kw_only=True)
class TrainingConstants:
    """The settings of a training that are the same for all experts of a study."""

    momentum: float
    """SGD's momentum, or Adam's first decay rate."""
    freeze_batch_norm: bool
    """Keeps BatchNorm's statistics at the base's."""
    nesterov: bool = False
    """Nesterov momentum; False for optimizers other than SGD."""
    probe_l2: float = 0.0
    """Penalty of the linear probe (`workers.models.linear_probe`); 0 without a probe."""


def training_to_json(
    hyperparameters: Hyperparameters, constants: TrainingConstants
) -> dict[str, Any]:
    """Returns both as the JSON object that a specification merges into its own."""
    flat = {**vars(hyperparameters), **vars(constants)}  # `asdict` would copy each value
    for name, default in ADAPTERS.items():
        if flat[name] == default:
            del flat[name]
    nested = {
        key: {inner: flat.pop(field) for inner, field in names.items()}
        for key, names in _NESTED.items()
    }
    return {**flat, **nested}


def training_from_json(
    values: Mapping[str, Any],
) -> tuple[Hyperparameters, TrainingConstants, dict[str, Any]]:
    """Reads what `training_to_json` wrote.

    Returns:
        The hyperparameters, the constants, and the remaining fields of the specification.

    Raises:
        KeyError: A field is missing.
    """
    flat = dict(values)
    for key, names in _NESTED.items():
        flat |= {names.get(inner, f"{key}.{inner}"): each for inner, each in flat.pop(key).items()}
    return _take(Hyperparameters, flat), _take(TrainingConstants, flat), flat


def _take(part: type[Part], flat: dict[str, Any]) -> Part:
    """Builds a part from its fields, which it removes from `flat`."""
    taken = {
        field.name: flat.pop(field.name)
        for field in fields(part)
        if field.name in flat or field.default is MISSING
    }
    return part(**taken)

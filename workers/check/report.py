"""Questions about models and their answers, as JSON between two processes. Free of torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workers.models.model_sizes import ModelSize

MAX_CHECKED_IMAGES = 2
"""Images of a checked step. Layers treat the images of a batch alike, except BatchNorm, which
cannot normalise a batch that has one value per channel."""

FaultKind = Literal[
    "name",
    "image_size",
    "resizing",
    "batch_size",
    "linearised",
    "adapters",
    "hub",
    "file",
    "model",
    "tower",
    "tower_weights",
]
Weights = Literal["none", "timm", "file", "elsewhere"]
"""Random, from timm's hub, from a local file, or from a package or object storage."""


@dataclass(frozen=True, kw_only=True, order=True)
class StepKind:
    """The properties of an optimizer step that decide whether a model can take it."""

    batch_size: int
    """Images, at most `MAX_CHECKED_IMAGES`."""
    trains_batch_norm: bool
    """Whether BatchNorm normalizes by the batch, not by its running statistics."""
    linearised: bool
    """Whether the step trains the model's expansion at the base (`workers.models.tangent`)."""


@dataclass(frozen=True, kw_only=True, order=True)
class ModelUse:
    """The work of a study with one of its models."""

    model: str
    """A timm model name."""
    image_size: int
    """Height and width of the images, in pixels."""
    weights: tuple[Weights, ...]
    """The kinds of the sources of its weights. A local file is a question of its own."""
    steps: tuple[StepKind, ...]

    @property
    def key(self) -> str:
        """The use as text."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True, order=True)
class FileUse:
    """A checkpoint file for a model."""

    model: str
    image_size: int
    """Height and width of the study's images, in pixels."""
    path: str
    """The absolute path."""
    num_bytes: int
    modified_ns: int
    """Nanoseconds since 1970; a changed file is another question."""
    num_classes: int | None = None
    """Classes of the classifier that the file must have; None if it needs none."""

    @property
    def key(self) -> str:
        """The use as text."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True, order=True)
class TowerUse:
    """A zero-shot head over a model, made by the text tower of an open_clip model."""

    model: str
    """The image tower, by timm's name."""
    tower: str
    """The whole model, by open_clip's name."""
    tag: str | None
    """open_clip's tag of the weights; None for a file."""
    has_open_clip: bool
    """Whether open_clip is installed here; if not, only the image tower is checked."""

    @property
    def key(self) -> str:
        """The use as text."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True, order=True)
class AdapterUse:
    """LoRA adapters of a model's layers."""

    model: str
    """A timm model name."""
    image_size: int
    """Height and width of the images, in pixels."""
    targets: str
    """The layers, as a study names them (`workers.models.lora.targets`)."""

    @property
    def key(self) -> str:
        """The use as text."""
        return json.dumps(asdict(self), sort_keys=True)


Use = ModelUse | FileUse | TowerUse | AdapterUse


def use_of(key: str) -> Use:
    """Returns the use with a key.

    Raises:
        ValueError, KeyError, TypeError: No use has the key.
    """
    fields = json.loads(key)
    if "path" in fields:
        return FileUse(**fields)
    if "tower" in fields:
        return TowerUse(**fields)
    if "targets" in fields:
        return AdapterUse(**fields)
    steps = tuple(StepKind(**each) for each in fields["steps"])
    return ModelUse(**{**fields, "weights": tuple(fields["weights"]), "steps": steps})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A reason why a study cannot use a model."""

    kind: FaultKind
    """The part of the study to change."""
    fault: str
    """The reason, after the name of the field: `timm has no model 'resnet_18'`."""
    remedy: str
    """The correction: `did you mean 'resnet18'?`."""


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """The answer about a use of a model, or about a file for it."""

    size: ModelSize | None = None
    """None if the model cannot be built, and for a file."""
    is_resized: bool = False
    """Whether timm builds the model for the study's image size (`img_size`), because the model at
    its own size does not take such images."""
    faults: tuple[Fault, ...] = ()
    remarks: tuple[str, ...] = ()
    """Sentences about choices that a user should know, such as tensors that are left out."""
    unchecked: str | None = None
    """The part of the check that did not come to an end, with the reason; None for none."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "ModelReport":
        """Returns the report whose `to_json` returned the fields.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        size = fields["size"]
        return ModelReport(
            **{
                **fields,
                "size": None if size is None else ModelSize(**size),
                "faults": tuple(Fault(**each) for each in fields["faults"]),
                "remarks": tuple(fields["remarks"]),
            }
        )

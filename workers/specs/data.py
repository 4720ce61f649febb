"""The specifications of images and zero-shot heads, and the jobs that make them."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from eval.task_source import TaskSource
from workers.specs.ids import VERSIONS, content_id

EvaluateOn = Literal["test", "validation"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The images of one task at one resolution: a training and a test split."""

    task: str
    fingerprint: str
    """Digest of the task's sources and of the code that composes them."""
    image_size: int
    """Height and width, in pixels."""
    max_train: int | None
    """Keeps this many training images (the first of a fixed shuffle); all when null."""
    max_test: int | None
    """Keeps this many test images; all when null."""
    evaluate_on: EvaluateOn
    """`validation` holds the last fifth of the training images out and calls them the test split,
    so that defaults can be chosen without looking at the test images."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        return content_id("data", version=VERSIONS["data"], spec=asdict(self))


@dataclass(frozen=True, kw_only=True)
class DataJob:
    """Images to commit, and where the task's files lie."""

    spec: DataSpec
    source: TaskSource

    @property
    def id(self) -> str:
        """The images' content address, which does not depend on where the files lie."""
        return self.spec.id


@dataclass(frozen=True, kw_only=True)
class ZeroShotSpec:
    """A task's classifier made of its classes' names by the text tower of a CLIP model."""

    task: str
    model: str
    """open_clip's name of the model."""
    weights: str
    """One of open_clip's tags, or `sha256:` and the digest of a checkpoint of the whole model."""
    classes: tuple[str, ...]
    """In the order of the labels."""
    templates: tuple[str, ...]
    """Texts with `{}` where the class's name belongs."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        return content_id("head", version=VERSIONS["head"], spec=asdict(self))


@dataclass(frozen=True, kw_only=True)
class HeadJob:
    """A zero-shot head to commit, and where the text tower's checkpoint lies."""

    spec: ZeroShotSpec
    path: str | None
    """A checkpoint file; None where `weights` is a tag."""

"""The specification of a task's images, and the job that prepares them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from eval.task_source import TaskSource
from workers.specs.ids import VERSIONS, content_id

EvaluateOn = Literal["test", "validation"]
OnBadImage = Literal["refuse", "skip"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The images of one task at one resolution: training, test and, where asked, validation."""

    task: str
    fingerprint: str
    """Digest of the task's sources and of the code that composes them."""
    image_size: int
    """Height and width, in pixels."""
    max_train: int | None
    """Number of training images to keep, the first of a fixed shuffle; None for all."""
    max_test: int | None
    """Number of test images to keep; None for all."""
    evaluate_on: EvaluateOn
    """`validation` holds the last fifth of the training images out and makes them the test split,
    so that defaults can be chosen without looking at the test images."""
    max_validation: int | None = None
    """Holds the last fifth of the training images out and keeps the first of them, at most this
    number, as the split `validation`; None holds nothing out. Under `evaluate_on: validation` it is
    a fifth of the training images that are left."""
    on_bad_image: OnBadImage = "refuse"
    """`skip` leaves out images that cannot be decoded, without others in their place."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        return content_id("data", version=VERSIONS["data"], spec=self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores, without fields at their defaults.

        Specifications of earlier releases have no `max_validation` and no `on_bad_image`.
        """
        values = asdict(self)
        if self.max_validation is None:
            del values["max_validation"]
        if self.on_bad_image == "refuse":
            del values["on_bad_image"]
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "DataSpec":
        """Returns the specification whose `to_json` returned the values.

        Raises:
            TypeError: A field is missing or unknown.
        """
        return DataSpec(**values)


@dataclass(frozen=True, kw_only=True)
class DataJob:
    """The preparation of a task's images."""

    spec: DataSpec
    source: TaskSource
    """The task's files; the id does not depend on where they lie."""

    @property
    def id(self) -> str:
        """The content address of the images."""
        return self.spec.id

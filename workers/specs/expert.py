"""The specification of an expert: a base that was fine-tuned on one task."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from workers.specs.data import EvaluateOn
from workers.specs.hyperparameters import (
    Hyperparameters,
    TrainingConstants,
    training_from_json,
    training_to_json,
)
from workers.specs.ids import VERSIONS, content_id

HeadSource = Literal["probe", "file"]


@dataclass(frozen=True, kw_only=True)
class GivenWeights:
    """A file with the weights of an expert that was trained elsewhere."""

    sha256: str
    """The file's digest."""
    head: HeadSource
    """`probe`: the linear probe of the expert's features. `file`: the classifier in the file."""
    config_sha256: str | None = None
    """The digest of an adapter's configuration, beside which `sha256` is that of its matrices; None
    for dense weights."""
    path: str | None = field(default=None, compare=False)
    """The file, an adapter's folder or a file's `s3://` URL, which is no part of the specification;
    None where a plan was read from a store."""

    def to_json(self) -> dict[str, str]:
        """Returns the values that the manifest stores."""
        # Left out for dense weights, so that ids stay as they were.
        config = {"config_sha256": self.config_sha256} if self.config_sha256 else {}
        return {"sha256": self.sha256, "head": self.head, **config}


@dataclass(frozen=True, kw_only=True)
class ExpertSpec:
    """A base and a classifier after some steps of fine-tuning on one task."""

    task: str
    base_id: str
    data_id: str
    """The id of the task's images."""
    hyperparameters: Hyperparameters
    constants: TrainingConstants
    head_id: str | None = None
    """The id of a zero-shot head, which is never trained; None for a head that `hyperparameters`
    describes."""
    evaluate_on: EvaluateOn = "test"
    """The images that the expert, and the base under its head, are evaluated on. Experts of a
    search are evaluated on validation images, so that no test image is read before it has ended."""
    given: GivenWeights | None = None
    """The file that the expert is read from; None for an expert that the study trains."""
    evaluates_base: ClassVar[bool] = True
    """True: the base is evaluated on the same images as well."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task, in the form of a pretraining's several tasks."""
        return (self.task,)

    @property
    def trains_head(self) -> bool:
        """Returns whether the classifier is trained with the backbone."""
        return self.hyperparameters.head != "frozen" and self.head_id is None

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = {key: value for key, value in self.to_json().items() if not key.endswith("_id")}
        inputs = (self.base_id, self.data_id, *([self.head_id] if self.head_id else ()))
        return content_id("expert", version=VERSIONS["expert"], spec=spec, inputs=inputs)

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""
        # Left out for test images and trained experts, so that ids stay as they were.
        scored = {} if self.evaluate_on == "test" else {"evaluate_on": self.evaluate_on}
        given = {} if self.given is None else {"given": self.given.to_json()}
        return {
            **given,
            "task": self.task,
            "base_id": self.base_id,
            "data_id": self.data_id,
            "head_id": self.head_id,
            **scored,
            **training_to_json(self.hyperparameters, self.constants),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ExpertSpec":
        """Returns the expert whose `to_json` returned the values.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is unknown.
        """
        hyperparameters, constants, rest = training_from_json(values)
        given = rest.pop("given", None)
        return ExpertSpec(
            hyperparameters=hyperparameters,
            constants=constants,
            given=None if given is None else GivenWeights(**given),
            **rest,
        )

    def with_steps(self, steps: int) -> "ExpertSpec":
        """Returns the expert after another number of steps of the same training."""
        return replace(self, hyperparameters=replace(self.hyperparameters, steps=steps))

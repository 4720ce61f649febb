"""The specifications of measurements: the constants of bases and merges that the theory needs.

Measurements are artifacts like any other. No plan names them: they follow from planned artifacts,
which are their inputs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Augmentation
from workers.specs.ids import VERSIONS, content_id
from workers.specs.merge import MergeSpec

MEASURED_KINDS = frozenset({"constants", "reach", "operator"})
"""The kinds of artifacts of this module."""


@dataclass(frozen=True, kw_only=True)
class TaskSample:
    """A task's loss as a function of the backbone's weights, on a sample of its training images."""

    task: str
    base_id: str
    data_id: str
    """The id of the task's images."""
    head_id: str | None = None
    """The id of a zero-shot head. Without one and without `head_expert_id`, the head is the linear
    probe of the base's features of all training images."""
    head_expert_id: str | None = None
    """The expert whose own classifier is the head."""
    probe_l2: float = 1.0
    """Penalty of the linear probe (`workers.models.linear_probe`); 0 with another head."""
    augment: Augmentation = "none"
    """The augmentation of the training whose theory is asked for; the probe is fitted without."""
    num_batches: int = 8
    """Q, disjoint batches; 3 or more, for standard errors."""
    batch_size: int = 32
    """m, images of a batch. A task with too few training images takes fewer."""
    seed: int = 0
    """Seeds the choice of images, augmentation and starts of iterations."""

    expert_id: str | None = None
    """The expert at whose weights and statistics the loss is taken, for constants along a training;
    None for the base's. A probe stays that of the base's features."""

    def __post_init__(self) -> None:
        if self.head_id is not None and self.head_expert_id is not None:
            raise ValueError("a sample has one head: a zero-shot head, an expert's, or a probe")

    @property
    def num_images(self) -> int:
        """The images of all batches, if the task has as many."""
        return self.num_batches * self.batch_size

    @property
    def kinds(self) -> dict[str, str]:
        """The artifacts that the sample is made from: ids with their kinds."""
        kinds = {self.base_id: "base", self.data_id: "data"}
        if self.head_id is not None:
            kinds[self.head_id] = "head"
        experts = (self.head_expert_id, self.expert_id)
        return kinds | {each: "expert" for each in experts if each is not None}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The ids of these artifacts, in their order."""
        return tuple(self.kinds)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """Returns the fields that are no ids of inputs, and the parts that the inputs play."""
        head = "probe" if self.head_id is None else "zero_shot"
        return {
            **{name: value for name, value in asdict(self).items() if not name.endswith("_id")},
            "head": "expert" if self.head_expert_id is not None else head,
            "is_at_base": self.expert_id is None,
        }


@dataclass(frozen=True, kw_only=True)
class CurvatureSpec:
    """The estimate of a task's curvature, with its bracket; much dearer than gradients."""

    num_images: int = 64
    """Images of each of the two samples of a pair."""
    num_products: int = 10
    """Most products with the Hessian for one largest eigenvalue."""
    num_pairs: int = 3
    num_singles: int = 16
    """Single images whose own curvature is measured, the theory's `L1`."""
    tolerance: float = 0.05
    """The iteration for an eigenvalue begins at the images' gradient, and ends once its residual is
    at most this share of it. 0 in measurements that are older than the field: these began at a
    random vector and made all products."""

    def identity(self) -> dict[str, Any]:
        """Returns the fields that the id depends on; older ids have no tolerance."""
        fields = asdict(self)
        if self.tolerance == 0:
            del fields["tolerance"]
        return fields


@dataclass(frozen=True, kw_only=True)
class ConstantsSpec:
    """The constants of a base, or an expert, on a task: products of gradients, noise, loss."""

    sample: TaskSample
    curvature: CurvatureSpec | None = None
    """None to leave curvature out."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec: dict[str, Any] = self.sample.identity()
        if self.curvature is not None:
            spec["curvature"] = self.curvature.identity()
        return content_id(
            "constants", version=VERSIONS["constants"], spec=spec, inputs=self.sample.inputs
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""
        curvature = None if self.curvature is None else asdict(self.curvature)
        return {**self.sample.to_json(), "curvature": curvature}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ConstantsSpec":
        """Returns the specification whose `to_json` returned the values.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        sample = dict(values)
        curvature = sample.pop("curvature")
        if curvature is not None:
            curvature = {"tolerance": EARLIER_CURVATURE.tolerance, **curvature}
        return ConstantsSpec(
            sample=TaskSample(**sample),
            curvature=None if curvature is None else CurvatureSpec(**curvature),
        )


@dataclass(frozen=True, kw_only=True)
class ReachSpec:
    """The reach of a path from the base on one task's loss.

    The path leads to the base plus a sum of task vectors: to an expert with one coefficient of 1,
    to an average with coefficients of 1/N.
    """

    sample: TaskSample
    experts: tuple[str, ...]
    """Ids of experts of the base."""
    coefficients: tuple[float, ...]
    """One for each expert."""

    def __post_init__(self) -> None:
        if self.sample.expert_id is not None:
            raise ValueError("a path begins at the base; its sample names no expert")
        if len(self.experts) != len(self.coefficients):
            raise ValueError(f"{len(self.experts)} experts, {len(self.coefficients)} coefficients")

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = {**self.sample.identity(), "coefficients": self.coefficients}
        inputs = (*self.sample.inputs, *self.experts)
        return content_id("reach", version=VERSIONS["reach"], spec=spec, inputs=inputs)

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""
        return {
            **self.sample.to_json(),
            "experts": self.experts,
            "coefficients": self.coefficients,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ReachSpec":
        """Returns the specification whose `to_json` returned the values.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        sample = dict(values)
        experts, coefficients = (tuple(sample.pop(name)) for name in ("experts", "coefficients"))
        return ReachSpec(sample=TaskSample(**sample), experts=experts, coefficients=coefficients)


@dataclass(frozen=True, kw_only=True)
class OperatorSpec:
    """The effect of a merge's method on its experts' task vectors; no image is read."""

    merge: MergeSpec
    leave_one_out: bool = False
    """Whether to merge again without each expert, which costs N + 1 merges."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec = {"leave_one_out": self.leave_one_out}
        merge = self.merge
        inputs = (merge.id, merge.base_id, *(expert.id for expert in merge.experts))
        return content_id("operator", version=VERSIONS["operator"], spec=spec, inputs=inputs)

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores; experts are named by id."""
        tasks = [expert.task for expert in self.merge.experts]
        return {
            "merge": self.merge.id,
            "method": self.merge.method,
            "params": dict(self.merge.params),
            "seed": self.merge.seed,
            "base_id": self.merge.base_id,
            "experts": {_place(expert, tasks=tasks): expert.id for expert in self.merge.experts},
            "leave_one_out": self.leave_one_out,
        }


def _place(expert: ExpertSpec, *, tasks: list[str]) -> str:
    """Returns the task of an expert; with its seed where several experts have the task."""
    one = tasks.count(expert.task) == 1
    return expert.task if one else f"{expert.task}, seed {expert.hyperparameters.seed}"


EARLIER_CURVATURE = CurvatureSpec(tolerance=0.0)
"""The estimate as earlier releases made it; equal to today's within its standard errors."""
Measurement = ConstantsSpec | ReachSpec | OperatorSpec

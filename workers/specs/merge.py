"""The specification of a merge: one method on one group of experts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from workers.specs.ids import VERSIONS, content_id
from workers.specs.training import ExpertSpec


@dataclass(frozen=True, kw_only=True)
class SurgerySpec:
    """Adapters that move a merged model's features towards each expert's own."""

    rank: int
    """Width of an adapter between its two maps."""
    steps: int
    """Steps of Adam for each task."""
    lr: float
    batch_size: int
    """Images a step."""


@dataclass(frozen=True, kw_only=True)
class MergeSpec:
    """One method with its parameters, on one group of experts: merge, then evaluate."""

    method: str
    params: Mapping[str, Any]
    """The method's parameters, every one of them, by name."""
    batch_norm: str
    """What becomes of running statistics: see `merge.catalogue.BatchNormPolicy`."""
    recalibration_images: int
    """Unlabelled training images per task for `recalibrate`; 0 for every other policy."""
    seed: int
    """Seeds methods that draw random numbers, and surgery; 0 where nothing is drawn."""
    base_id: str
    experts: tuple[ExpertSpec, ...]
    """The group, ordered by task name: the order in which sums are taken."""
    held_out: tuple[ExpertSpec, ...]
    """Experts outside the group whose heads and tasks the merge is evaluated on as well."""
    surgery: SurgerySpec | None = None
    """What is done to the merged model's features for each task of the group; None for nothing."""

    @property
    def linearised(self) -> bool:
        """Whether the experts are linearised, and with them the merged model."""
        members = (*self.experts, *self.held_out)
        (linearised,) = {expert.hyperparameters.linearised for expert in members}
        return linearised

    @cached_property
    def id(self) -> str:
        """The content address."""
        spec: dict[str, Any] = {
            "method": self.method,
            "params": dict(self.params),
            "batch_norm": self.batch_norm,
            "recalibration_images": self.recalibration_images,
            "seed": self.seed,
            "num_experts": len(self.experts),
        }
        if self.surgery is not None:  # so that the ids of all other merges are as they were
            spec["surgery"] = asdict(self.surgery)
        members = (expert.id for expert in (*self.experts, *self.held_out))
        inputs = (self.base_id, *members)
        return content_id("merge", version=VERSIONS["merge"], spec=spec, inputs=inputs)

"""The types of the tables: cases, and explanations of differences."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["weights", "statistics", "integers"]

WITH_BATCH_NORM = ("small_resnet", "resnet18")
ALL = ("small_resnet", "small_resnet_groupnorm", "small_vit", "resnet18")
SMALL = ("small_resnet", "small_resnet_groupnorm", "small_vit")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One method of this project and one of a peer, with parameters that mean the same."""

    ours: tuple[str, Mapping[str, object]]
    """This project's method and its parameters."""
    peer: Literal["fusion_bench", "mergekit"]
    theirs: tuple[str, Mapping[str, object]]
    """The peer's method and its parameters."""
    architectures: tuple[str, ...] = ALL
    """Architectures on which to compare."""
    part: Part = "weights"
    """The compared tensors. For weights the peer gets only weights, else whole states."""
    batch_norm: str = "average"
    """This project's policy for running statistics."""
    num_experts: int = 3
    """Number of experts to merge."""
    one_entry_more: str | None = None
    """Name of this project's density that is raised by one entry of the model."""
    is_random: bool = False
    """Whether the peer's random masks are replaced by this project's."""
    is_divided: bool = False
    """Whether mergekit's kept entries are divided by their probability, which it cannot do."""
    are_kernels_matrices: bool = False
    """Whether the peer gets kernels as matrices, as this project treats them."""
    is_double: bool = False
    """Whether the peer computes in float64, as this project does for norms and decompositions."""
    task: int | None = None
    """The expert for whose task the model is compared, for methods with a model per task."""
    measured: Literal["fisher", "grams"] | None = None
    """The random measurements that both get instead of images."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The reason why a case differs. The check fails if the difference is gone."""

    kind: Literal["the peer's error", "another convention", "the peer refuses"]
    why: str
    shown_by: tuple[str, ...] = field(default=())
    """Cases that agree after matching the convention, so nothing else differs."""
    message: str = ""
    """The expected text in the peer's error."""

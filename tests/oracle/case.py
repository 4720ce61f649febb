"""What a line of the tables consists of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["weights", "statistics", "integers"]

WITH_BATCH_NORM = ("small_resnet", "resnet18")
ALL = ("small_resnet", "small_resnet_groupnorm", "small_vit", "resnet18")
SMALL = ("small_resnet", "small_resnet_groupnorm", "small_vit")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One method of ours beside one of a peer's, with parameters that mean the same."""

    ours: tuple[str, Mapping[str, object]]
    """Our method and its parameters."""
    peer: Literal["fusion_bench", "mergekit"]
    theirs: tuple[str, Mapping[str, object]]
    """The peer's method and its parameters."""
    architectures: tuple[str, ...] = ALL
    part: Part = "weights"
    """What is compared. The peer is given weights alone if these are, else the whole state."""
    batch_norm: str = "average"
    num_experts: int = 3
    one_entry_more: str | None = None
    """A density of ours that is raised by one entry of the model."""
    is_random: bool = False
    """Whether the peer's draws are replaced by what ours keeps."""
    is_divided: bool = False
    """Whether what mergekit keeps is divided by its chance to be kept, which mergekit cannot do."""
    are_kernels_matrices: bool = False
    """Whether the peer is given kernels as the matrices that ours takes them for."""
    is_double: bool = False
    """Whether the peer computes in float64, as ours does where it takes norms or decompositions."""
    task: int | None = None
    """The expert whose task's model is compared, of methods that have one for each."""
    measured: Literal["fisher", "grams"] | None = None
    """What both are given instead of images."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Why a case differs. The check fails when the difference is gone."""

    kind: Literal["the peer's error", "another convention", "the peer refuses"]
    why: str
    shown_by: tuple[str, ...] = field(default=())
    """Cases that agree once the convention is matched, which shows that nothing else differs."""
    message: str = ""
    """What the peer's refusal says."""

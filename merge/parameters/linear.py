"""Parameters of the methods that combine whole task vectors linearly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from merge.parameters.method_params import SCALING, MethodParams
from merge.ranges import Choice, Number, Numbers, allow

Angle = Literal["cosine", "degrees"]


@dataclass(frozen=True, kw_only=True)
class AverageParams(MethodParams):
    """Parameters of averaging, which has none."""


@dataclass(frozen=True, kw_only=True)
class TaskArithmeticParams(MethodParams):
    """Parameters of task arithmetic, which adds the scaled sum of the task vectors to the base."""

    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors; 1/N is the average. Default: FusionBench."""


@dataclass(frozen=True, kw_only=True)
class WeightedAverageParams(MethodParams):
    """Parameters of weighted averaging, which gives each expert its share of the weights' sum."""

    weights: tuple[float, ...] = field(default=(), metadata=allow(Numbers(at_most=1000)))
    """One weight per expert, in the group's order; only their ratios count. A negative weight
    extrapolates away from an expert. Empty for equal weights (the uniform soup). Weights are stored
    as given: normalizing them here and again in the merge could change bits, and so the id.
    Default: simple averaging."""

    @property
    def num_experts(self) -> int | None:
        """The number of weights; None if there are none."""
        return len(self.weights) or None


@dataclass(frozen=True, kw_only=True)
class ModelStockParams(MethodParams):
    """Parameters of Model Stock, which moves from the base to the average as experts agree."""

    angle: Angle = field(default="cosine", metadata=allow(Choice(get_args(Angle))))
    """The quantity that is averaged over pairs of experts: the cosines of their angles, as in
    mergekit, or the angles, as in the authors' code and FusionBench. The two differ from three
    experts on. Default: the cosine, whose mean needs one tensor in memory instead of all."""


@dataclass(frozen=True, kw_only=True)
class SlerpParams(MethodParams):
    """Parameters of spherical interpolation, which follows an arc between two experts."""

    t: float = field(default=0.5, metadata=allow(Number(at_least=0, at_most=1)))
    """Fraction of the way to the second expert. Default: the middle."""

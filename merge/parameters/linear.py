"""Parameters of the methods that combine whole task vectors linearly."""

from __future__ import annotations

from dataclasses import dataclass, field

from merge.parameters.method_params import SCALING, MethodParams
from merge.ranges import allow


@dataclass(frozen=True, kw_only=True)
class AverageParams(MethodParams):
    """Simple averaging has no parameter."""


@dataclass(frozen=True, kw_only=True)
class TaskArithmeticParams(MethodParams):
    """Task arithmetic adds the scaled sum of the task vectors to the base."""

    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors; 1/N is the average. Default: FusionBench."""

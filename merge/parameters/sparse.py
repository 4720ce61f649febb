"""Parameters of the methods that drop entries of task vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from merge.parameters.method_params import DENSITY, SCALING, Consensus, MethodParams, Scope
from merge.ranges import Choice, Flag, allow


@dataclass(frozen=True, kw_only=True)
class TiesParams(MethodParams):
    """TIES trims each task vector, elects signs and merges what agrees.

    The defaults are FusionBench's; the paper's are consensus `mean` with scaling 1, another
    operating point.
    """

    density: float = field(default=0.2, metadata=allow(DENSITY))
    """Kept fraction of the entries of a task vector. Default: the paper, FusionBench."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench, made for consensus `sum`."""
    consensus: Consensus = field(default="sum", metadata=allow(Choice(get_args(Consensus))))
    """Whether agreeing entries are added or averaged. Default: FusionBench (paper: `mean`)."""
    scope: Scope = field(default="model", metadata=allow(Choice(get_args(Scope))))
    """What the density is a fraction of: all weights or each tensor. Default: the paper."""


@dataclass(frozen=True, kw_only=True)
class DareParams(MethodParams):
    """DARE drops entries at random, then adds as task arithmetic does."""

    density: float = field(default=0.5, metadata=allow(DENSITY))
    """Chance of an entry to be kept, the paper's 1 - p. Default: FusionBench (p = 0.5)."""
    rescale: bool = field(default=True, metadata=allow(Flag()))
    """Whether kept entries are divided by the density, which keeps the mean. Default: the paper."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors. Default: FusionBench."""


@dataclass(frozen=True, kw_only=True)
class DareTiesParams(MethodParams):
    """DARE drops entries at random, then merges as TIES does, trimming over the whole model."""

    density: float = field(default=0.5, metadata=allow(DENSITY))
    """Chance of an entry to be kept by the random drop. Default: FusionBench (p = 0.5)."""
    rescale: bool = field(default=True, metadata=allow(Flag()))
    """Whether kept entries are divided by the density. Default: the paper."""
    trim_density: float = field(default=0.2, metadata=allow(DENSITY))
    """Fraction of all entries, dropped ones included, that the trim keeps. Default: FusionBench."""
    scaling: float = field(default=0.5, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench."""
    consensus: Consensus = field(default="sum", metadata=allow(Choice(get_args(Consensus))))
    """Whether agreeing entries are added or averaged. Default: FusionBench."""

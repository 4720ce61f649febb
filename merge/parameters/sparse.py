"""Parameters of the methods that choose among the entries of task vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from merge.parameters.method_params import DENSITY, SCALING, Consensus, MethodParams, Scope
from merge.ranges import Choice, Count, Flag, Number, allow


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


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsParams(MethodParams):
    """Breadcrumbs drops the largest and the smallest entries of each tensor, then adds.

    Paper and authors' code name the fractions from other ends; these are mergekit's meanings.
    """

    density: float = field(default=0.9, metadata=allow(DENSITY))
    """Kept fraction of a tensor's entries, once the largest are gone. Default: mergekit."""
    gamma: float = field(default=0.01, metadata=allow(Number(at_least=0, at_most=1)))
    """Fraction of the largest entries to drop; less where the density leaves no room. Default:
    mergekit."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors. Default: task arithmetic's."""


@dataclass(frozen=True, kw_only=True)
class DellaParams(MethodParams):
    """DELLA drops entries at random, small ones rather than large ones, then merges as TIES does.

    The defaults are the example in the authors' code, which is one of the points it searched.
    """

    density: float = field(default=0.7, metadata=allow(DENSITY))
    """Mean chance of an entry to be kept, the paper's 1 - p. Default: the authors' code."""
    epsilon: float = field(default=0.14, metadata=allow(Number(at_least=0, at_most=1)))
    """Difference of the chances of a row's largest and smallest entry; less where the density
    leaves no room. mergekit's epsilon is half of it. Default: the authors' code."""
    scaling: float = field(default=1.1, metadata=allow(SCALING))
    """Factor on the merged task vector, made for consensus `mean`. Default: the authors' code."""
    consensus: Consensus = field(default="mean", metadata=allow(Choice(get_args(Consensus))))
    """Whether elected entries are added or averaged. Default: the authors' code."""
    elect: bool = field(default=True, metadata=allow(Flag()))
    """Whether only entries of the elected sign are merged; without, it is mergekit's della_linear.
    Default: the paper."""


@dataclass(frozen=True, kw_only=True)
class ConsensusTaParams(MethodParams):
    """Consensus task arithmetic keeps the entries of the sum that enough tasks have a use for."""

    tall_lambda: float = field(default=0.4, metadata=allow(SCALING))
    """How large an entry must be against the others' sum for its task to use it. Default: the
    middle of the paper's 0.2 to 0.6, which it searches for each task."""
    min_tasks: int = field(default=2, metadata=allow(Count(at_least=1, at_most=1000)))
    """Tasks that must use an entry. With more than there are experts nothing is kept, and the
    result is the base. Default: the paper."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the kept sum. Default: task arithmetic's; the paper searches 0.1 to 1."""


@dataclass(frozen=True, kw_only=True)
class PcbParams(MethodParams):
    """PCB weighs entries by their own size and their agreement with the others, and keeps the best.

    The model is its scope: size and rank are taken over all weights of an expert.
    """

    density: float = field(default=0.1, metadata=allow(DENSITY))
    """Kept fraction of an expert's entries. Default: the authors' code (searched: 0.05 to 0.2)."""
    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the weighted mean of the task vectors. Default: plain (the authors' code: 1.2)."""


@dataclass(frozen=True, kw_only=True)
class MagMaxParams(MethodParams):
    """MagMax takes for each entry the task vector that is largest there."""

    scaling: float = field(default=0.5, metadata=allow(SCALING))
    """Factor on the chosen entries. Default: the paper."""

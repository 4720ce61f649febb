"""Parameters of the methods that keep some entries of the task vectors and drop others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from merge.parameters.method_params import (
    CHANCE,
    DENSITY,
    FACTOR,
    SCALING,
    Consensus,
    MethodParams,
    Scope,
)
from merge.ranges import Choice, Count, Flag, Number, allow

LEAST_CHANCE = 2.0**-24
"""The distance between two of DELLA's draws. A probability up to it counts as zero: dividing an
entry by it would multiply the entry by more than 16 million."""


@dataclass(frozen=True, kw_only=True)
class TiesParams(MethodParams):
    """Parameters of TIES, which trims task vectors, elects signs and merges agreeing entries.

    The defaults are FusionBench's. The paper's defaults, consensus `mean` with scaling 1, are
    another operating point.
    """

    density: float = field(default=0.2, metadata=allow(DENSITY))
    """Kept fraction of the entries of a task vector. Default: the paper, FusionBench."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench, for consensus `sum`."""
    consensus: Consensus = field(default="sum", metadata=allow(Choice(get_args(Consensus))))
    """Whether agreeing entries are added or averaged. Default: FusionBench (paper: `mean`)."""
    scope: Scope = field(default="model", metadata=allow(Choice(get_args(Scope))))
    """Whether the density is a fraction of all weights or of each tensor. Default: the paper."""


@dataclass(frozen=True, kw_only=True)
class DareParams(MethodParams):
    """Parameters of DARE, which drops entries at random before task arithmetic."""

    density: float = field(default=0.5, metadata=allow(CHANCE))
    """Probability that an entry is kept, the paper's 1 - p. Default: FusionBench (p = 0.5)."""
    rescale: bool = field(default=True, metadata=allow(Flag()))
    """Whether kept entries are divided by the density, which keeps the mean. Default: the paper."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors. Default: FusionBench."""


@dataclass(frozen=True, kw_only=True)
class DareTiesParams(MethodParams):
    """Parameters of DARE + TIES, which drops entries at random before TIES over the model."""

    density: float = field(default=0.5, metadata=allow(CHANCE))
    """Probability that the random drop keeps an entry. Default: FusionBench (p = 0.5)."""
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
    """Parameters of Breadcrumbs, which drops the largest and smallest entries of each tensor.

    The paper and the authors' code count the fractions from other ends; this is mergekit's meaning.
    """

    density: float = field(default=0.9, metadata=allow(DENSITY))
    """Kept fraction of a tensor's entries, below the dropped largest ones. Default: mergekit."""
    gamma: float = field(default=0.01, metadata=allow(Number(at_least=0, at_most=1)))
    """Fraction of a tensor's entries to drop, the largest first; less if the density leaves no
    room. Default: mergekit."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors. Default: task arithmetic's."""


@dataclass(frozen=True, kw_only=True)
class DellaParams(MethodParams):
    """Parameters of DELLA, which drops small entries more often, then merges like TIES.

    The defaults are the example in the authors' code, one of the points that the authors searched.
    """

    density: float = field(default=0.7, metadata=allow(CHANCE))
    """Mean probability that an entry is kept, the paper's 1 - p. Default: the authors' code."""
    epsilon: float = field(default=0.14, metadata=allow(Number(at_least=0, at_most=1)))
    """Probability of keeping a row's largest entry minus that of its smallest; less if the density
    leaves no room. mergekit's epsilon is half of this. Default: the authors' code."""
    scaling: float = field(default=1.1, metadata=allow(SCALING))
    """Factor on the merged task vector, for consensus `mean`. Default: the authors' code."""
    consensus: Consensus = field(default="mean", metadata=allow(Choice(get_args(Consensus))))
    """Whether entries with the elected sign are added or averaged. Default: the authors' code."""
    elect: bool = field(default=True, metadata=allow(Flag()))
    """Whether only entries with the elected sign are merged. False is mergekit's della_linear.
    Default: the paper."""

    @property
    def half_window(self) -> float:
        """The probability of keeping a row's largest entry minus the density."""
        return min(self.epsilon / 2, self.density, 1 - self.density)

    @property
    def revision(self) -> int:
        """2 where the window begins at zero, since entries of probability zero are always dropped.

        Before, a draw of exactly 0 kept such an entry, 8e37 times as large.
        """
        return 2 if self.density - self.half_window <= LEAST_CHANCE else 1


@dataclass(frozen=True, kw_only=True)
class ConsensusTaParams(MethodParams):
    """Parameters of consensus task arithmetic, which keeps entries that enough tasks use."""

    tall_lambda: float = field(default=0.4, metadata=allow(FACTOR))
    """A task uses an entry if it is at least this many times as large as the sum of the other
    tasks' entries. Default: the middle of the paper's 0.2 to 0.6, which it searches per task."""
    min_tasks: int = field(default=2, metadata=allow(Count(at_least=1, at_most=1000)))
    """Fewest tasks that must use an entry for it to be kept. A number above the number of experts
    keeps nothing, and the result is the base. Default: the paper."""
    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the kept sum. Default: task arithmetic's; the paper searches 0.1 to 1."""


@dataclass(frozen=True, kw_only=True)
class PcbParams(MethodParams):
    """Parameters of PCB, which keeps the entries with the best size and agreement.

    Its scope is the model: sizes and ranks are taken over all weights of an expert.
    """

    density: float = field(default=0.1, metadata=allow(DENSITY))
    """Kept fraction of an expert's entries. Default: the authors' code (searched: 0.05 to 0.2)."""
    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the weighted mean of the task vectors. Default: no scaling (authors' code: 1.2)."""


@dataclass(frozen=True, kw_only=True)
class MagMaxParams(MethodParams):
    """Parameters of MagMax, which takes each entry from the largest task vector there."""

    scaling: float = field(default=0.5, metadata=allow(SCALING))
    """Factor on the chosen entries. Default: the paper."""

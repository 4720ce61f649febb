"""Parameters of the methods that act on the singular values and subspaces of matrices."""

from __future__ import annotations

from dataclasses import dataclass, field

from merge.parameters.method_params import SCALING, MethodParams
from merge.ranges import Count, Number, allow


@dataclass(frozen=True, kw_only=True)
class TsvMParams(MethodParams):
    """TSV-M keeps each task's leading singular vectors and orthogonalises them across tasks."""

    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench (paper: searched up to 3)."""


@dataclass(frozen=True, kw_only=True)
class IsoCParams(MethodParams):
    """Iso-C sums the task vectors and gives all directions of the sum the same singular value."""

    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench (its documentation's runs: 1.5)."""


@dataclass(frozen=True, kw_only=True)
class IsoCtsParams(MethodParams):
    """Iso-CTS replaces the sum's last directions by the tasks' own before levelling, as Iso-C."""

    common_fraction: float = field(default=0.8, metadata=allow(Number(at_least=0, at_most=1)))
    """Share of the rank that the sum's directions keep. Default: the paper."""
    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench (its documentation's runs: 1.5)."""


@dataclass(frozen=True, kw_only=True)
class WudiParams(MethodParams):
    """WUDI moves the sum of the task vectors to where it disturbs no task's inputs.

    Few steps of a small size are part of the method: they bound how far an entry moves from the
    sum, by steps x lr.
    """

    steps: int = field(default=400, metadata=allow(Count(at_least=0, at_most=1_000_000)))
    """Steps of Adam; 0 leaves the sum. Default: FusionBench (the authors' code: 300)."""
    lr: float = field(default=1e-5, metadata=allow(Number(above=0, at_most=1)))
    """Adam's learning rate, about what an entry moves in a step. Default: the paper."""

"""Parameters of the methods that act on singular values and subspaces of matrices."""

from __future__ import annotations

from dataclasses import dataclass, field

from merge.parameters.method_params import SCALING, MethodParams
from merge.ranges import Count, Number, allow


@dataclass(frozen=True, kw_only=True)
class TsvMParams(MethodParams):
    """Parameters of TSV-M, which orthogonalises the tasks' leading singular vectors."""

    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench (paper: searched up to 3)."""


@dataclass(frozen=True, kw_only=True)
class IsoCParams(MethodParams):
    """Parameters of Iso-C, which gives all directions of the sum the same singular value."""

    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench (its documentation's runs: 1.5)."""


@dataclass(frozen=True, kw_only=True)
class IsoCtsParams(MethodParams):
    """Parameters of Iso-CTS, which replaces the sum's last directions by the tasks' own first."""

    common_fraction: float = field(default=0.8, metadata=allow(Number(at_least=0, at_most=1)))
    """Fraction of the rank for the sum's directions. Default: the paper."""
    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench (its documentation's runs: 1.5)."""


@dataclass(frozen=True, kw_only=True)
class WudiParams(MethodParams):
    """Parameters of WUDI, which moves the sum of the task vectors to reduce interference.

    Few small steps are part of the method: an entry moves at most about steps x lr from the sum.
    """

    steps: int = field(default=400, metadata=allow(Count(at_least=0, at_most=1_000_000)))
    """Steps of Adam; 0 returns the sum. Default: FusionBench (the authors' code: 300)."""
    lr: float = field(default=1e-5, metadata=allow(Number(above=0, at_most=1)))
    """Adam's learning rate, about the distance that an entry moves per step. Default: the paper."""

"""Parameters of the methods that act on singular values and subspaces of matrices."""

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
    """Iso-CTS replaces the sum's last directions by the tasks' own before it equalizes them."""

    common_fraction: float = field(default=0.8, metadata=allow(Number(at_least=0, at_most=1)))
    """Fraction of the rank for the sum's directions. Default: the paper."""
    scaling: float = field(default=1.0, metadata=allow(SCALING))
    """Factor on the merged task vector. Default: FusionBench (its documentation's runs: 1.5)."""


@dataclass(frozen=True, kw_only=True)
class WudiParams(MethodParams):
    """WUDI moves the sum of the task vectors to where it interferes least with the tasks' inputs.

    Few small steps are part of the method: an entry moves at most about steps x lr from the sum.
    """

    steps: int = field(default=400, metadata=allow(Count(at_least=0, at_most=1_000_000)))
    """Steps of Adam; 0 returns the sum. Default: FusionBench (the authors' code: 300)."""
    lr: float = field(default=1e-5, metadata=allow(Number(above=0, at_most=1)))
    """Adam's learning rate, about the distance that an entry moves per step. Default: the paper."""

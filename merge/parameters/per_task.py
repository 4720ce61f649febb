"""Parameters of the methods that keep modules of each task beside the merged model."""

from __future__ import annotations

from dataclasses import dataclass, field

from merge.parameters.method_params import FACTOR, MethodParams
from merge.ranges import Number, allow


@dataclass(frozen=True, kw_only=True)
class EmrParams(MethodParams):
    """Parameters of EMR-Merging, which has none."""


@dataclass(frozen=True, kw_only=True)
class TallMaskParams(MethodParams):
    """Parameters of TALL masks, which keep the entries of the sum that a task needs."""

    tall_lambda: float = field(default=0.4, metadata=allow(FACTOR))
    """A task keeps an entry if it is at least this many times as large as the sum of the other
    tasks' entries; 0 keeps all. Default: the middle of the paper's 0.2 to 0.6, which it validates
    per task."""
    scaling: float = field(default=0.3, metadata=allow(FACTOR))
    """Factor on the sum of the task vectors in the model without masks, which tasks outside the
    group use. The masked models have no factor. Default: FusionBench's task arithmetic."""


@dataclass(frozen=True, kw_only=True)
class TwinParams(MethodParams):
    """Parameters of Twin-Merging, which adds low-rank differences to a shared model."""

    scaling: float = field(default=0.29, metadata=allow(FACTOR))
    """Factor on the sum of the task vectors in the shared model. Default: the authors'
    configuration for RoBERTa."""
    rank_frac: float = field(default=0.1, metadata=allow(Number(above=0, at_most=1)))
    """Kept fraction of the rank of each matrix of the difference. Default: the authors' scripts
    (mask rate 0.9)."""

"""Every method's parameters with defaults and ranges; free of torch.

Whoever checks a study reads this module without loading torch; `merge.methods` holds the functions
under the same names. A default's source stands under its field; "FusionBench" is release 0.2.33,
the library of the seed study.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, get_args

from merge.errors import ParameterErrors, Problem
from merge.ranges import Choice, Flag, Number, allow, problems_of, range_of, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

BatchNormPolicy = Literal["average", "pooled", "base", "recalibrate", "per_task"]
"""Where a merged model's running statistics come from (rules in `merge.buffers`)."""
Consensus = Literal["sum", "mean"]
Scope = Literal["model", "tensor"]

SCALING = Number(at_least=0, at_most=10)
"""Published searches end at 3; ten bounds a slip of the decimal point and nothing else."""
DENSITY = Number(above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class MethodParams:
    """Holds what every method's parameters share: no value out of range ever exists.

    Raises:
        ParameterErrors: a value is out of its field's range; all such values are listed.
    """

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        problems = problems_of(type(self), values=values)
        if problems:
            raise ParameterErrors(type(self).__name__, problems=problems)
        for each in fields(self):
            # An id hashes the parameters, and 1 and 1.0 are one point of a sweep.
            if isinstance(range_of(each), Number):
                object.__setattr__(self, each.name, float(values[each.name]))


@dataclass(frozen=True, kw_only=True)
class AverageParams(MethodParams):
    """Simple averaging has no parameter."""


@dataclass(frozen=True, kw_only=True)
class TaskArithmeticParams(MethodParams):
    """Task arithmetic adds the scaled sum of the task vectors to the base."""

    scaling: float = field(default=0.3, metadata=allow(SCALING))
    """Factor on the sum of the task vectors; 1/N is the average. Default: FusionBench."""


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


PARAMS: dict[str, type[MethodParams]] = {
    "average": AverageParams,
    "task_arithmetic": TaskArithmeticParams,
    "ties": TiesParams,
    "dare": DareParams,
    "dare_ties": DareTiesParams,
}


def parse_params(method: str, values: Mapping[str, object]) -> MethodParams:
    """Returns a method's parameters with defaults for what `values` leaves out.

    Raises:
        ParameterErrors: the method is unknown, or some parameters are; every problem is listed.
    """
    if method not in PARAMS:
        allowed = unknown(str(method), known=PARAMS)
        problem = Problem(field="method", value=method, allowed=allowed)
        raise ParameterErrors(str(method), problems=[problem])
    params_class = PARAMS[method]
    problems = problems_of(params_class, values=values)
    if problems:
        raise ParameterErrors(method, problems=problems)
    return params_class(**values)


def method_of(params: MethodParams) -> str:
    """Returns the name of the method that the parameters belong to."""
    return next(name for name, each in PARAMS.items() if each is type(params))

"""The table of the methods' parameters, with defaults and ranges; free of torch.

Whoever checks a study reads this module without loading torch; `merge.methods` holds the functions
under the same names. A default's source stands under its field in `merge.parameters`; "FusionBench"
is release 0.2.33, the library of the seed study.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from merge.cards import CARDS
from merge.errors import ParameterErrors, Problem
from merge.parameters.linear import (
    AverageParams,
    ModelStockParams,
    SlerpParams,
    TaskArithmeticParams,
    WeightedAverageParams,
)
from merge.parameters.per_task import EmrParams, TallMaskParams, TwinParams
from merge.parameters.sparse import (
    BreadcrumbsParams,
    ConsensusTaParams,
    DareParams,
    DareTiesParams,
    DellaParams,
    MagMaxParams,
    PcbParams,
    TiesParams,
)
from merge.parameters.spectral import IsoCParams, IsoCtsParams, TsvMParams, WudiParams
from merge.parameters.with_data import (
    AdaMergingParams,
    FisherParams,
    FrankWolfeParams,
    FrankWolfeSoftParams,
    GreedySoupParams,
    RegMeanParams,
)
from merge.ranges import problems_of, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from merge.parameters.method_params import MethodParams

BatchNormPolicy = Literal["average", "pooled", "base", "recalibrate", "per_task"]
"""Where a merged model's running statistics come from (rules in `merge.buffers`)."""

PARAMS: dict[str, type[MethodParams]] = {
    "average": AverageParams,
    "weighted_average": WeightedAverageParams,
    "task_arithmetic": TaskArithmeticParams,
    "slerp": SlerpParams,
    "model_stock": ModelStockParams,
    "magmax": MagMaxParams,
    "ties": TiesParams,
    "dare": DareParams,
    "dare_ties": DareTiesParams,
    "breadcrumbs": BreadcrumbsParams,
    "della": DellaParams,
    "consensus_ta": ConsensusTaParams,
    "pcb": PcbParams,
    "tsv_m": TsvMParams,
    "iso_c": IsoCParams,
    "iso_cts": IsoCtsParams,
    "wudi": WudiParams,
    "emr": EmrParams,
    "tall_mask": TallMaskParams,
    "twin": TwinParams,
    "fisher": FisherParams,
    "regmean": RegMeanParams,
    "adamerging": AdaMergingParams,
    "frank_wolfe": FrankWolfeParams,
    "frank_wolfe_soft": FrankWolfeSoftParams,
    "greedy_soup": GreedySoupParams,
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


def num_experts_of(params: MethodParams) -> int | None:
    """Returns how many experts a group must have for these parameters; None for any number."""
    return params.num_experts or CARDS[method_of(params)].num_experts

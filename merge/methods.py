"""The table of methods.

A new one is a file in `merge.operators`, a line here, its parameters and its card.
"""

from __future__ import annotations

from merge.method import Method
from merge.operators import (
    average,
    breadcrumbs,
    consensus_ta,
    dare,
    dare_ties,
    della,
    magmax,
    model_stock,
    pcb,
    slerp,
    task_arithmetic,
    ties,
    weighted_average,
)
from merge.parameters.linear import (
    AverageParams,
    ModelStockParams,
    SlerpParams,
    TaskArithmeticParams,
    WeightedAverageParams,
)
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

METHODS: dict[str, Method] = {
    "average": Method(params=AverageParams, combine=average.combine),
    "task_arithmetic": Method(params=TaskArithmeticParams, combine=task_arithmetic.combine),
    "weighted_average": Method(params=WeightedAverageParams, combine=weighted_average.combine),
    "model_stock": Method(params=ModelStockParams, combine=model_stock.combine),
    "slerp": Method(params=SlerpParams, combine=slerp.combine),
    "ties": Method(
        params=TiesParams,
        combine=ties.combine,
        measure_expert=ties.measure_expert,
        statistics=ties.statistics,
    ),
    "dare": Method(params=DareParams, combine=dare.combine),
    "dare_ties": Method(
        params=DareTiesParams, combine=dare_ties.combine, statistics=dare_ties.statistics
    ),
    "breadcrumbs": Method(
        params=BreadcrumbsParams,
        combine=breadcrumbs.combine,
        measure_expert=breadcrumbs.measure_expert,
    ),
    "della": Method(params=DellaParams, combine=della.combine),
    "consensus_ta": Method(params=ConsensusTaParams, combine=consensus_ta.combine),
    "pcb": Method(
        params=PcbParams,
        combine=pcb.combine,
        measure_expert=pcb.measure_expert,
        statistics=pcb.statistics,
    ),
    "magmax": Method(params=MagMaxParams, combine=magmax.combine),
}

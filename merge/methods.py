"""The table of methods.

A new one is a file in `merge.operators`, a line here, its parameters and its card.
"""

from __future__ import annotations

from merge.method import Method
from merge.operators import (
    adamerging,
    average,
    dare,
    dare_ties,
    fisher,
    frank_wolfe,
    greedy_soup,
    regmean,
    task_arithmetic,
    ties,
)
from merge.parameters.linear import AverageParams, TaskArithmeticParams
from merge.parameters.sparse import DareParams, DareTiesParams, TiesParams
from merge.parameters.with_data import (
    AdaMergingParams,
    FisherParams,
    FrankWolfeParams,
    GreedySoupParams,
    RegMeanParams,
)

METHODS: dict[str, Method] = {
    "average": Method(params=AverageParams, combine=average.combine),
    "task_arithmetic": Method(params=TaskArithmeticParams, combine=task_arithmetic.combine),
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
    "adamerging": Method(
        params=AdaMergingParams,
        combine=adamerging.combine,
        measure_expert=adamerging.measure_expert,
        learn=adamerging.learn,
    ),
    "fisher": Method(params=FisherParams, combine=fisher.combine, learn=fisher.learn),
    "regmean": Method(
        params=RegMeanParams,
        combine=regmean.combine,
        learn=regmean.learn,
        covers=regmean.covers,
    ),
    "frank_wolfe": Method(
        params=FrankWolfeParams, combine=frank_wolfe.combine, learn=frank_wolfe.learn
    ),
    "greedy_soup": Method(
        params=GreedySoupParams, combine=greedy_soup.combine, learn=greedy_soup.learn
    ),
}

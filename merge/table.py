"""The table of methods.

A new one is a file in `merge.operators`, a line here, its parameters and its card.
"""

from __future__ import annotations

from merge.operators import (
    adamerging,
    average,
    breadcrumbs,
    consensus_ta,
    dare,
    dare_ties,
    della,
    emr,
    fisher,
    frank_wolfe,
    frank_wolfe_soft,
    greedy_soup,
    iso_c,
    iso_cts,
    magmax,
    model_stock,
    pcb,
    regmean,
    slerp,
    tall_mask,
    task_arithmetic,
    ties,
    tsv_m,
    twin,
    weighted_average,
    wudi,
)
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
from merge.protocols import Method
from merge.spectral import is_matrix

METHODS: dict[str, Method] = {
    "average": Method(params=AverageParams, combine=average.combine),
    "weighted_average": Method(params=WeightedAverageParams, combine=weighted_average.combine),
    "task_arithmetic": Method(params=TaskArithmeticParams, combine=task_arithmetic.combine),
    "slerp": Method(params=SlerpParams, combine=slerp.combine),
    "model_stock": Method(params=ModelStockParams, combine=model_stock.combine),
    "magmax": Method(params=MagMaxParams, combine=magmax.combine),
    "ties": Method(
        params=TiesParams,
        combine=ties.combine,
        measure_expert=ties.measure_expert,
        statistics=ties.statistics,
        settle=ties.settle,
    ),
    "dare": Method(params=DareParams, combine=dare.combine),
    "dare_ties": Method(
        params=DareTiesParams,
        combine=dare_ties.combine,
        statistics=dare_ties.statistics,
        settle=ties.settle,
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
    "tsv_m": Method(params=TsvMParams, combine=tsv_m.combine, covers=is_matrix),
    "iso_c": Method(params=IsoCParams, combine=iso_c.combine, covers=is_matrix),
    "iso_cts": Method(params=IsoCtsParams, combine=iso_cts.combine, covers=is_matrix),
    "wudi": Method(params=WudiParams, combine=wudi.combine, covers=is_matrix),
    "emr": Method(
        params=EmrParams,
        combine=emr.combine,
        statistics=emr.statistics,
        combine_for_task=emr.combine_for_task,
    ),
    "tall_mask": Method(
        params=TallMaskParams,
        combine=tall_mask.combine,
        combine_for_task=tall_mask.combine_for_task,
    ),
    "twin": Method(params=TwinParams, combine=twin.combine, combine_for_task=twin.combine_for_task),
    "fisher": Method(params=FisherParams, combine=fisher.combine, learn=fisher.learn),
    "regmean": Method(
        params=RegMeanParams,
        combine=regmean.combine,
        learn=regmean.learn,
        covers=regmean.covers,
    ),
    "adamerging": Method(
        params=AdaMergingParams,
        combine=adamerging.combine,
        measure_expert=adamerging.measure_expert,
        learn=adamerging.learn,
    ),
    "frank_wolfe": Method(
        params=FrankWolfeParams, combine=frank_wolfe.combine, learn=frank_wolfe.learn
    ),
    "frank_wolfe_soft": Method(
        params=FrankWolfeSoftParams,
        combine=frank_wolfe_soft.combine,
        learn=frank_wolfe_soft.learn,
    ),
    "greedy_soup": Method(
        params=GreedySoupParams, combine=greedy_soup.combine, learn=greedy_soup.learn
    ),
}

"""The table of methods: the functions of each, under the names of `merge.catalogue`.

A new method is a file in `merge.operators`, an entry here, a class in `merge.parameters` and a card
in `merge.catalogue`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge.catalogue import method_of
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
from merge.protocols import Method
from merge.spectral import is_matrix

if TYPE_CHECKING:
    from merge.parameters.method_params import MethodParams

METHODS: dict[str, Method] = {
    "average": Method(combine=average.combine),
    "weighted_average": Method(combine=weighted_average.combine),
    "task_arithmetic": Method(combine=task_arithmetic.combine),
    "slerp": Method(combine=slerp.combine),
    "model_stock": Method(combine=model_stock.combine),
    "magmax": Method(combine=magmax.combine),
    "ties": Method(
        combine=ties.combine,
        measure_expert=ties.measure_expert,
        measure_group=ties.measure_group,
        deferred_entries=ties.deferred_entries,
    ),
    "dare": Method(combine=dare.combine),
    "dare_ties": Method(
        combine=dare_ties.combine,
        measure_group=dare_ties.measure_group,
        deferred_entries=ties.deferred_entries,
    ),
    "breadcrumbs": Method(
        combine=breadcrumbs.combine,
        measure_expert=breadcrumbs.measure_expert,
    ),
    "della": Method(combine=della.combine),
    "consensus_ta": Method(combine=consensus_ta.combine),
    "pcb": Method(
        combine=pcb.combine,
        measure_expert=pcb.measure_expert,
        measure_group=pcb.measure_group,
    ),
    "tsv_m": Method(combine=tsv_m.combine, covers=is_matrix),
    "iso_c": Method(combine=iso_c.combine, covers=is_matrix),
    "iso_cts": Method(combine=iso_cts.combine, covers=is_matrix),
    "wudi": Method(combine=wudi.combine, covers=is_matrix),
    "emr": Method(
        combine=emr.combine,
        measure_group=emr.measure_group,
        combine_for_task=emr.combine_for_task,
    ),
    "tall_mask": Method(
        combine=tall_mask.combine,
        combine_for_task=tall_mask.combine_for_task,
    ),
    "twin": Method(combine=twin.combine, combine_for_task=twin.combine_for_task),
    "fisher": Method(combine=fisher.combine, learn=fisher.learn),
    "regmean": Method(
        combine=regmean.combine,
        learn=regmean.learn,
        covers=regmean.covers,
    ),
    "adamerging": Method(
        combine=adamerging.combine,
        measure_expert=adamerging.measure_expert,
        learn=adamerging.learn,
    ),
    "frank_wolfe": Method(combine=frank_wolfe.combine, learn=frank_wolfe.learn),
    "frank_wolfe_soft": Method(
        combine=frank_wolfe_soft.combine,
        learn=frank_wolfe_soft.learn,
    ),
    "greedy_soup": Method(combine=greedy_soup.combine, learn=greedy_soup.learn),
}


def functions_of(params: MethodParams) -> Method:
    """Returns the functions of the method that these parameters belong to."""
    functions: Method = METHODS[method_of(params)] if params.own is None else params.own.functions
    return functions

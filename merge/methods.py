"""The table of methods.

A new one is a file in `merge.operators`, a line here, its parameters and its card.
"""

from __future__ import annotations

from merge.method import Method
from merge.operators import (
    average,
    dare,
    dare_ties,
    emr,
    tall_mask,
    task_arithmetic,
    ties,
    twin,
)
from merge.parameters.linear import AverageParams, TaskArithmeticParams
from merge.parameters.per_task import EmrParams, TallMaskParams, TwinParams
from merge.parameters.sparse import DareParams, DareTiesParams, TiesParams

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
}

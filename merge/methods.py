"""The table of methods.

A new one is a file in `merge.operators`, a line here, its parameters and its card.
"""

from __future__ import annotations

from merge.method import Method
from merge.operators import average, dare, dare_ties, task_arithmetic, ties
from merge.parameters.linear import AverageParams, TaskArithmeticParams
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
}

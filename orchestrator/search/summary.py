"""Sums up a search for the report and MLflow: table, lines, importance of hyperparameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.record.committed import Committed
from orchestrator.search.space import dimensions, search_of
from orchestrator.search.table import candidates_table
from orchestrator.search.words import search_lines

MIN_CANDIDATES = 10
"""The fewest scored candidates from which importances are estimated."""
_NUM_TREES, _NUM_REPEATS = 200, 20


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """A search so far."""

    candidates: pa.Table
    """As `candidates_table` returns it."""
    lines: Sequence[str]
    """The search and its best candidate in words."""
    metric: str
    """`loss`, where less is better, or `accuracy`."""
    dimensions: Mapping[str, bool]
    """Whether each searched hyperparameter is on a logarithmic scale, by its column."""


def search_summary(committed: Committed) -> SearchSummary | None:
    """Returns the search of a study; None for a study without one."""
    study = committed.plan.study
    if study.search is None:
        return None
    return SearchSummary(
        candidates=candidates_table(committed),
        lines=search_lines(committed),
        metric=search_of(study).objective.metric,
        dimensions={name: each.log is not None for name, each in dimensions(study).items()},
    )


def importances(summary: SearchSummary) -> dict[str, float]:
    """Returns how much each hyperparameter explains of the objective at the first rung.

    Each is a permutation importance (Breiman 2001) under a random forest: the loss of explained
    variance when the hyperparameter's column is shuffled. The first rung has all candidates at
    comparable steps.

    Returns:
        Numbers by column, the greatest first; empty with fewer than `MIN_CANDIDATES` scores.
    """
    # Imported here because scikit-learn takes a second to load.
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415
    from sklearn.inspection import permutation_importance  # noqa: PLC0415

    rows = [
        row
        for row in summary.candidates.to_pylist()
        if row["rung"] == 0 and row["objective"] is not None
    ]
    if len(rows) < MIN_CANDIDATES:
        return {}
    columns = [
        _numbers([row[name] for row in rows], is_log=is_log)
        for name, is_log in summary.dimensions.items()
    ]
    inputs, targets = np.array(columns).T, np.array([row["objective"] for row in rows])
    forest = RandomForestRegressor(n_estimators=_NUM_TREES, random_state=0).fit(inputs, targets)
    found = permutation_importance(
        forest, inputs, targets, n_repeats=_NUM_REPEATS, random_state=0
    ).importances_mean
    by_name = dict(zip(summary.dimensions, map(float, found), strict=True))
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


def _numbers(values: Sequence[Any], *, is_log: bool) -> list[float]:
    """Returns values as numbers: logarithms, the numbers themselves, or ranks of names."""
    if all(isinstance(each, int | float) for each in values):
        return [math.log(each) if is_log else float(each) for each in values]
    ranks = {name: float(rank) for rank, name in enumerate(sorted(set(map(str, values))))}
    return [ranks[str(each)] for each in values]

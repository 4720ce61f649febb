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
_NUM_TREES, _NUM_REPEATS, _NUM_FOLDS = 100, 20, 5


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

    Each is a permutation importance (Breiman 2001) under a random forest, on candidates that the
    forest was not fitted to: half the mean square error that is added if the hyperparameter's value
    is another candidate's, over the variance of the objective. For a forest that is right it is the
    share of the variance that the hyperparameter takes part in (Jansen 1999). On the candidates of
    the fit themselves, pure noise would look important. The first rung has all candidates at
    comparable steps.

    Returns:
        Numbers by column, the greatest first, 0 for none; empty with fewer than `MIN_CANDIDATES`
        scores.
    """
    # Imported here because scikit-learn takes a second to load.
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415

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
    generator = np.random.default_rng(0)
    fold_of = generator.permutation(len(rows)) % _NUM_FOLDS
    added = np.zeros(len(columns))
    for fold in range(_NUM_FOLDS):
        is_out = fold_of == fold
        forest = RandomForestRegressor(n_estimators=_NUM_TREES, random_state=0)
        forest.fit(inputs[~is_out], targets[~is_out])
        tested, true = np.tile(inputs[is_out], (_NUM_REPEATS, 1)), targets[is_out]
        error = float(((forest.predict(inputs[is_out]) - true) ** 2).sum())
        for place in range(len(columns)):
            changed = tested.copy()
            changed[:, place] = generator.choice(inputs[:, place], size=len(changed))
            missed = forest.predict(changed).reshape(_NUM_REPEATS, -1) - true
            added[place] += float((missed**2).sum()) / _NUM_REPEATS - error
    variance = float(targets.var())
    shares = np.maximum(0.0, added) / (2 * len(rows) * variance) if variance > 0 else 0 * added
    by_name = dict(zip(summary.dimensions, map(float, shares), strict=True))
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


def _numbers(values: Sequence[Any], *, is_log: bool) -> list[float]:
    """Returns values as numbers: logarithms, the numbers themselves, or ranks of names."""
    if all(isinstance(each, int | float) for each in values):
        return [math.log(each) if is_log else float(each) for each in values]
    ranks = {name: float(rank) for rank, name in enumerate(sorted(set(map(str, values))))}
    return [ranks[str(each)] for each in values]

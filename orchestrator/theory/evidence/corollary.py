"""Fills the table of methods' effects on task vectors: Corollary 1, before and after each."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eval.counts import counted
from eval.theory.spread import relative_spread, spread
from merge.catalogue import CHANGE_TASK_VECTORS
from orchestrator.bounds.findings import verb_of
from orchestrator.bounds.study_measurements import MeasuredOperator
from orchestrator.plan.plan import Plan
from orchestrator.theory.features import MEASURED
from orchestrator.theory.table_rows import Columns, or_none


def operator_rows(plan: Plan, operators: Sequence[MeasuredOperator]) -> Iterator[Columns]:
    """Yields a row for each method that changes task vectors, on each group at each setting.

    Methods that only add task vectors leave spread and signs as they are, and have no row.
    """
    for operator in operators:
        cell = plan.first_cells.get(operator.merge.id)
        if cell is None or operator.merge.method not in CHANGE_TASK_VECTORS:
            continue
        metrics = operator.metrics
        weights = np.full(len(metrics.before), 1 / len(metrics.before))
        after = metrics.after
        yield {
            "setting": cell.setting.name,
            "method": cell.label,
            "group": cell.group.name,
            "label": MEASURED,
            "spread_before": spread(metrics.before, weights),
            "spread_after": None if after is None else spread(after, weights),
            "relative_before": or_none(relative_spread(metrics.before, weights)),
            "relative_after": None if after is None else or_none(relative_spread(after, weights)),
            "flipped_before": _mean(metrics.flipped_before),
            "flipped_after": _mean(metrics.flipped),
            "moved_before": _mean(metrics.moved_before),
            "moved_after": _mean(metrics.moved),
        }


def ratios(rows: Sequence[Mapping[str, float | None]], name: str) -> list[float]:
    """Returns the numbers after a method over those before it, where both exist."""
    pairs = [(row[f"{name}_before"], row[f"{name}_after"]) for row in rows]
    return [after / before for before, after in pairs if before and after is not None]


def corollary_texts(rows: Sequence[Columns]) -> Iterator[str]:
    """Yields a sentence for each method: what it does to spread, relative spread and stability."""
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        plain, relative = (ratios(of_method, name) for name in ("spread", "relative"))
        if not plain:
            yield f"{method}: its result has no part of a single expert, so no spread after it."
            continue
        text = (
            f"{method}: the spread of the task vectors {verb_of(plain)}, to {_spelt(plain)} times "
            f"the one before, relative to the mean's length to {_spelt(relative)} times, over "
            f"{counted(len(plain), 'merge')}"
        )
        flips = [row for row in of_method if row["flipped_after"] is not None]
        if flips:
            moved = ratios(flips, "moved")
            after, before = (
                100 * statistics.fmean(row[f"flipped_{when}"] for row in flips)
                for when in ("after", "before")
            )
            text += (
                f"; without one expert {after:.1f} % of the merge's signs flip ({before:.1f} % of "
                f"the plain average's) and the merge moves {_spelt(moved)} times as far, squared"
            )
        else:
            text += "; its stability is not measured (`mergesweep measure NAME --leave-one-out`)"
        yield f"{text}. Corollary 1 compares spreads alone."


def _spelt(numbers: Sequence[float]) -> str:
    if not numbers:
        return "unknown"
    return f"{statistics.fmean(numbers):.2f} [{min(numbers):.2f}, {max(numbers):.2f}]"


def _mean(numbers: Sequence[float] | None) -> float | None:
    return None if numbers is None else statistics.fmean(numbers)

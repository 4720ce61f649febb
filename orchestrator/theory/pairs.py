"""Compares settings and methods in pairs: in the same groups, on the same test images.

The spread of a loss over groups is mostly the tasks': it is the same at both settings and cancels
in the difference. Two intervals of the mean difference are computed, by Student's t over the groups
and over the tasks; groups share tasks, so that the first alone is too narrow. The wider one and its
p-value count. All pairs of a family are tested together, by Holm (1979), so that the family holds
a wrong difference with a probability of at most 5 %, also if the best is chosen after the fact.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from orchestrator.theory.intervals import LEVEL, NONE, Interval, widest
from orchestrator.theory.panel import Array, Panel

QUANTITIES = {"loss": -1.0, "accuracy": 1.0}
"""The compared columns, with the sign that makes larger numbers better."""
MAX_MEMBERS = 300
"""A family of more settings has more than 44,850 pairs and is not compared."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The best of a family against another member of it."""

    kind: str
    """`values` of an axis under one method, or `methods` at one setting."""
    family: str
    """The method, or the setting, that the family has in common."""
    axis: str
    """The axis of `values`; empty for `methods`."""
    mean: str
    quantity: str
    best: str
    """The member with the best mean."""
    other: str
    difference: float
    """The mean over the groups of best minus other: nats per image, or a fraction of accuracy."""
    interval: Interval
    """The wider of the two intervals below."""
    over_groups: Interval
    over_tasks: Interval
    num_better: int
    """Groups in which the best one is better."""
    num_groups: int
    p_value: float
    """Two-sided, of the wider interval; NaN for a single group."""
    p_holm: float
    """Corrected for all pairs of the family."""
    num_pairs: int
    """Pairs of the family."""


def compare_values(panel: Panel, *, mean: str) -> Iterator[Comparison]:
    """Yields the comparisons along every axis whose values share groups, for one method."""
    for axis, values in panel.axes.items():
        for quantity in QUANTITIES:
            members = [(value, panel.values[quantity][index]) for value, index in values.items()]
            yield from _family(
                members,
                panel=panel,
                mean=mean,
                quantity=quantity,
                labels={"kind": "values", "family": panel.method, "axis": axis},
            )


def compare_methods(panels: Sequence[Panel], *, mean: str) -> Iterator[Comparison]:
    """Yields the comparisons of all methods at every setting; all panels have equal settings."""
    first = panels[0]
    for index, setting in enumerate(first.settings):
        for quantity in QUANTITIES:
            members = [(panel.method, panel.values[quantity][index]) for panel in panels]
            yield from _family(
                members,
                panel=first,
                mean=mean,
                quantity=quantity,
                labels={"kind": "methods", "family": setting, "axis": ""},
            )


def _family(
    members: Sequence[tuple[str, Array]],
    *,
    panel: Panel,
    mean: str,
    quantity: str,
    labels: dict[str, str],
) -> Iterator[Comparison]:
    """Yields the best member against each other one, corrected for all pairs.

    Members without any finite number are left out. Only groups in which every other member has one
    count.
    """
    weights = panel.weights(mean)
    every = {name: _totals(by_task, panel=panel, weights=weights) for name, by_task in members}
    totals = {name: each for name, each in every.items() if np.isfinite(each).any()}
    if not 1 < len(totals) <= MAX_MEMBERS:
        return
    shared = np.isfinite(np.array(list(totals.values()))).all(axis=0)
    if not shared.any():
        return
    cells = {name: by_task[shared] for name, by_task in members if name in totals}
    sign, means = QUANTITIES[quantity], {name: each[shared].mean() for name, each in totals.items()}
    best = max(means, key=lambda name: sign * means[name])
    pairs = list(itertools.combinations(cells, 2))
    tests = {
        pair: paired_intervals(cells[pair[0]] - cells[pair[1]], weights=weights[shared])
        for pair in pairs
    }
    corrected = dict(zip(pairs, holm([tests[pair][1] for pair in pairs]), strict=True))
    for other in cells:
        if other == best:
            continue
        pair = (best, other) if (best, other) in tests else (other, best)
        found, p_value = tests[pair]
        flip = 1.0 if pair[0] == best else -1.0
        differences = sign * (totals[best] - totals[other])[shared]
        yield Comparison(
            **labels,
            mean=mean,
            quantity=quantity,
            best=best,
            other=other,
            difference=means[best] - means[other],
            interval=_flipped(widest(found), flip),
            over_groups=_flipped(found["groups"], flip),
            over_tasks=_flipped(found["tasks"], flip),
            num_better=int((differences > 0).sum()),
            num_groups=len(differences),
            p_value=p_value,
            p_holm=corrected[pair],
            num_pairs=len(pairs),
        )


def _totals(by_task: Array, *, panel: Panel, weights: Array) -> Array:
    """Returns the mean over the tasks of every group, as (G,)."""
    totals: Array = (np.where(panel.members, by_task, 0.0) * weights).sum(axis=1)
    return totals


def paired_intervals(differences: Array, *, weights: Array) -> tuple[dict[str, Interval], float]:
    """Returns the intervals of a mean difference over groups and tasks, and the larger p-value.

    Each is Student's 95 % interval; `NONE` over a single group or task.

    Args:
        differences: (G, T), NaN where the group lacks the task.
        weights: (G, T): the weights of the tasks in each group.
    """
    filled = np.nan_to_num(differences)
    by_group = (filled * weights).sum(axis=1)
    held = weights.sum(axis=0)
    by_task = (filled * weights).sum(axis=0)[held > 0] / held[held > 0]
    center = float(by_group.mean())
    found, p_values = {}, []
    for over, numbers, share in (
        ("groups", by_group, np.full(len(by_group), 1 / len(by_group))),
        ("tasks", by_task, held[held > 0] / held.sum()),
    ):
        found[over], p_value = _student(numbers, share=share, center=center, over=over)
        p_values.append(p_value)
    return found, float(np.nanmax(p_values)) if np.isfinite(p_values).any() else math.nan


def _student(numbers: Array, *, share: Array, center: float, over: str) -> tuple[Interval, float]:
    """Returns Student's interval and p-value of a weighted mean; weights sum to 1.

    Each number counts with the square of its weight, over the value that makes the variance
    unbiased for numbers of equal variance. For n equal weights this is the usual 1 / (n (n - 1)).
    """
    num = len(numbers)
    if num < 2:  # noqa: PLR2004 one number has no spread
        return NONE, math.nan
    squares = float((share**2).sum())
    unbiased = 1 - 2 * float((share**3).sum()) / squares + squares
    variance = (share**2 * (numbers - share @ numbers) ** 2).sum() / unbiased
    error = math.sqrt(variance)
    half = float(stdtrit(num - 1, (1 + LEVEL) / 2)) * error
    if error == 0:
        p_value = 1.0 if center == 0 else 0.0
    else:
        p_value = float(2 * stdtr(num - 1, -abs(center) / error))
    return Interval(low=center - half, high=center + half, over=over), p_value


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values corrected for their number, by Holm's step-down method.

    NaN counts as a test that was made and stays NaN.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    order = sorted(
        range(len(p_values)), key=lambda index: (math.isnan(p_values[index]), p_values[index])
    )
    corrected, running = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        if not math.isnan(p_values[index]):
            running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
            corrected[index] = running
    return corrected


def _flipped(interval: Interval, sign: float) -> Interval:
    if sign > 0:
        return interval
    return Interval(low=-interval.high, high=-interval.low, over=interval.over)

"""Rank correlations of a predictor with a measured loss, of three kinds that are never mixed.

`within groups`: over the settings in each group, then the mean over the groups. `across groups`:
over the groups at each setting, then the mean over the settings. `pooled`: over all settings and
groups together, where differences between tasks and between settings add up.

The least possible p-value of a coefficient over k values is 2 / k!, as there are k! orders: with
four values no coefficient can be significant.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from orchestrator.theory.intervals import Indices, Interval, three_intervals, widest
from orchestrator.theory.panel import Array, Mask

WITHIN, ACROSS, POOLED = "within groups", "across groups", "pooled"
KINDS = (WITHIN, ACROSS, POOLED)
MIN_VALUES = 3
_NUM_DRAWS = {WITHIN: 2000, ACROSS: 500, POOLED: 500}  # ranks are found anew in most draws


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """One kind of correlation of a predictor with a loss."""

    kind: str
    spearman: float
    """Mean of Spearman's coefficients; NaN where the predictor is constant in all of them."""
    kendall: float
    """The same of Kendall's tau-b."""
    num_values: int
    """Values that are ranked in each coefficient."""
    num_coefficients: int
    """Coefficients that the mean is over: those in which predictor and loss both vary."""
    least_p: float
    """The least two-sided p-value that one coefficient over so many values can have."""
    intervals: dict[str, Interval]
    """Of Spearman's coefficient over groups, tasks and settings."""

    @property
    def interval(self) -> Interval:
        """The widest interval."""
        return widest(self.intervals)


def correlations(predictor: Array, loss: Array, *, members: Mask) -> Iterator[Correlation]:
    """Yields the correlations of the three kinds, as far as there are enough values.

    Args:
        predictor: (S, G).
        loss: (S, G), finite.
        members: (G, T): whether the group has the task.
    """
    predictor, loss = _without_rounding(predictor), _without_rounding(loss)
    num_settings, num_groups = loss.shape
    sizes = {WITHIN: num_settings, ACROSS: num_groups, POOLED: loss.size}
    for kind, num_values in sizes.items():
        if num_values < MIN_VALUES:
            continue
        x, y = (_rows(each, kind=kind) for each in (predictor, loss))
        spearman = rank_correlation(x, y)
        known = np.isfinite(spearman)
        kendall = [
            float(scipy.stats.kendalltau(*each).statistic)
            for each in zip(x[known], y[known], strict=True)
        ]
        yield Correlation(
            kind=kind,
            spearman=float(spearman[known].mean()) if known.any() else math.nan,
            kendall=float(np.mean(kendall)) if kendall else math.nan,
            num_values=num_values,
            num_coefficients=int(known.sum()),
            least_p=least_p(num_values),
            intervals=three_intervals(
                _Sampled(predictor=predictor, loss=loss, kind=kind),
                members=members,
                num_settings=num_settings,
                num_draws=_NUM_DRAWS[kind],
            )
            if known.any()
            else {},
        )


def least_p(num_values: int) -> float:
    """Returns the least two-sided p-value of a rank correlation over so many distinct values."""
    return min(1.0, 2 / math.factorial(num_values)) if num_values < 150 else 0.0  # noqa: PLR2004


def rank_correlation(x: Array, y: Array) -> Array:
    """Returns Spearman's coefficients of numbers along the last axis; NaN where one is constant.

    Shapes:
        x, y: (..., num); their leading axes are broadcast against each other.
        returns: (...).
    """
    ranks_x, ranks_y = (scipy.stats.rankdata(each, axis=-1) for each in (x, y))
    ranks_x -= ranks_x.mean(axis=-1, keepdims=True)
    ranks_y -= ranks_y.mean(axis=-1, keepdims=True)
    norms = np.sqrt((ranks_x**2).sum(axis=-1) * (ranks_y**2).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        coefficients: Array = (ranks_x * ranks_y).sum(axis=-1) / norms
    return np.where(norms > 0, coefficients, np.nan)


@dataclass(frozen=True, kw_only=True)
class _Sampled:
    """Spearman's coefficient of one kind for samples of settings and groups."""

    predictor: Array
    loss: Array
    kind: str

    def __call__(self, settings: Indices, groups: Indices) -> Array:
        x, y = self.predictor[settings], self.loss[settings]
        if self.kind == WITHIN:
            is_whole = len(settings) == len(self.loss)
            by_group = self._of_all_settings if is_whole else rank_correlation(x.T, y.T)
            return known_means(by_group[groups])
        x, y = x[:, groups], y[:, groups]  # (S', draws, G')
        if self.kind == POOLED:
            return rank_correlation(
                *(np.swapaxes(each, 0, 1).reshape(len(groups), -1) for each in (x, y))
            )
        flat = rank_correlation(x.reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2]))
        return known_means(flat.reshape(len(settings), len(groups)).T)

    @cached_property
    def _of_all_settings(self) -> Array:
        """The coefficient within each group, as (G,)."""
        return rank_correlation(self.predictor.T, self.loss.T)


def _without_rounding(numbers: Array) -> Array:
    """Returns numbers to 12 digits, so that equal ones are ties though rounding tells them apart.

    A learning rate of 1e-4 with batches of 16 and one of 2e-4 with 64 have one noise scale, whose
    logarithms differ in the last digit.
    """
    mantissa, exponent = np.frexp(numbers)
    kept: Array = np.ldexp(np.round(mantissa, 12), exponent)
    return kept


def _rows(numbers: Array, *, kind: str) -> Array:
    """Returns what is ranked together as rows: of groups, of settings, or a single one."""
    if kind == WITHIN:
        return numbers.T
    return numbers if kind == ACROSS else numbers.reshape(1, -1)


def known_means(numbers: Array) -> Array:
    """Returns the mean of the finite numbers of each row, NaN for a row without any."""
    known = np.isfinite(numbers)
    count = known.sum(axis=1)
    total = np.where(known, numbers, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)

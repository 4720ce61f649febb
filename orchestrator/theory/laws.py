"""Fits laws of the merged loss along each axis, and finds optima and exponents with intervals.

Every form is shown with two errors: in sample, and held out, where each value of the axis in turn
is predicted from the others. The preferred form has the least held-out error; forms whose errors
are within 10 % of the least are a tie, which the one with the fewest parameters wins.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eval.counts import counted
from orchestrator.results.means import CATEGORICAL_AXES, numbers_of
from orchestrator.theory.forms import FORMS, Form
from orchestrator.theory.intervals import (
    Indices,
    Interval,
    three_intervals,
    widest,
)
from orchestrator.theory.panel import Array, Panel

TIE = 1.1
"""Held-out errors whose ratio is below this are a tie."""
_ROUNDING = 1e-9  # nats: errors that differ by less are equal, as those of equal losses
MIN_VALUES = 3
"""With two values, every form of two parameters passes through both."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """One form, fitted to the mean losses of one method along one axis."""

    form: Form
    params: tuple[float, ...]
    error_in_sample: float
    """Root mean squared error in nats per image."""
    error_held_out: float
    """The same, each value predicted from the others; NaN if there are too few values for that."""
    num_values: int
    is_preferred: bool

    @property
    def is_description(self) -> bool:
        """Returns whether so few values are left beyond the parameters that nothing is tested."""
        return self.num_values <= self.form.num_params + 1


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its three intervals."""

    value: float
    intervals: dict[str, Interval]

    @property
    def interval(self) -> Interval:
        """The widest interval."""
        return widest(self.intervals)


@dataclass(frozen=True, kw_only=True)
class AxisLaws:
    """The laws of one method along one axis."""

    axis: str
    method: str
    values: Array
    losses: Array
    """Means over the groups at each value, nats per image."""
    num_groups: int
    """Groups in each mean; the fewest where they differ in number."""
    laws: tuple[Law, ...]
    exponent: Estimate
    """b of the power law: the slope of ln loss against ln value."""
    optimum: Estimate | None
    """The value with the least loss by the parabola; None if none was seen."""
    no_optimum: str
    """The reason why no optimum was seen; empty if one was."""


def fit_axis(panel: Panel, axis: str, *, mean: str) -> AxisLaws | str:
    """Returns the laws of a method along an axis, or the reason why there are none."""
    numbers = None if axis in CATEGORICAL_AXES else numbers_of(list(panel.axes[axis]))
    if numbers is None:
        return "its values are names, not numbers"
    losses = panel.at(list(panel.axes[axis].values())).group_means("loss", mean=mean)
    x = np.array(numbers, dtype=float)
    losses, x = losses[np.isfinite(losses).any(axis=1)], x[np.isfinite(losses).any(axis=1)]
    if len(x) < MIN_VALUES:
        verb = "has" if len(x) == 1 else "have"
        return f"{counted(len(x), 'value')} {verb} a finite loss; a law needs {MIN_VALUES}"
    if x.min() <= 0:
        return f"a law needs positive values, and {x.min():g} is among them"
    whole = np.isfinite(losses).all(axis=0)
    kept = losses[:, whole] if whole.any() else losses
    members = panel.members[whole] if whole.any() else panel.members
    y = np.array([row[np.isfinite(row)].mean() for row in kept])
    if y.min() <= 0:
        return "a loss is 0"
    samples = _Samples(x=x, losses=kept)
    bends = three_intervals(samples.vertices, members=members, num_settings=len(x))
    vertex = float(_vertex(x, y[None])[0])
    laws = tuple(_laws(x, y))
    reason = (
        _no_optimum(vertex, spread=bends["groups"], x=x, laws=laws)
        if whole.any()
        else "its values have different groups: no optimum is looked for"
    )
    return AxisLaws(
        axis=axis,
        method=panel.method,
        values=x,
        losses=y,
        num_groups=int(np.isfinite(kept).sum(axis=1).min()),
        laws=laws,
        exponent=Estimate(
            value=float(_slope(x, y[None])[0]),
            intervals=three_intervals(samples.slopes, members=members, num_settings=len(x)),
        ),
        optimum=None if reason else Estimate(value=vertex, intervals=bends),
        no_optimum=reason,
    )


def _laws(x: Array, y: Array) -> Iterator[Law]:
    forms = [form for form in FORMS.values() if form.num_params <= len(x)]
    held_out = {form.name: _held_out_error(form, x, y) for form in forms}
    least = min((error for error in held_out.values() if math.isfinite(error)), default=math.nan)
    preferred = next(
        (form for form in forms if held_out[form.name] <= TIE * least + _ROUNDING),
        FORMS["constant"],
    )
    for form in forms:
        params = form.fit(x, y)
        yield Law(
            form=form,
            params=tuple(params.tolist()),
            error_in_sample=_rms(form.predict(params, x) - y),
            error_held_out=held_out[form.name],
            num_values=len(x),
            is_preferred=form is preferred,
        )


def _held_out_error(form: Form, x: Array, y: Array) -> float:
    if len(x) <= form.num_params:
        return math.nan
    errors = [
        form.predict(form.fit(np.delete(x, at), np.delete(y, at)), x[at : at + 1])[0] - y[at]
        for at in range(len(x))
    ]
    return _rms(np.array(errors))


def _rms(errors: Array) -> float:
    return float(np.sqrt((errors**2).mean()))


@dataclass(frozen=True, kw_only=True)
class _Samples:
    """The losses at all values, (S, G), from which samples of values and groups are drawn."""

    x: Array
    losses: Array

    def slopes(self, settings: Indices, groups: Indices) -> Array:
        """Returns the exponent of each sample."""
        return _slope(self.x[settings], self._means(settings, groups))

    def vertices(self, settings: Indices, groups: Indices) -> Array:
        """Returns the value with the least loss by the parabola of each sample."""
        return _vertex(self.x[settings], self._means(settings, groups))

    def _means(self, settings: Indices, groups: Indices) -> Array:
        """Returns the mean losses of each sample, as (draws, S')."""
        if np.isfinite(self.losses).all():
            means: Array = self.losses[settings][:, groups].mean(axis=2).T
            return means
        # Groups of several sizes: those of each value are resampled by their own number.
        rows = []
        for row in self.losses[settings]:
            known = np.flatnonzero(np.isfinite(row))
            rows.append(row[known[groups % len(known)]].mean(axis=1))
        return np.array(rows).T


def _slope(x: Array, y: Array) -> Array:
    """Returns the slope of ln y against ln x for each row of y, as (draws,)."""
    centered = np.log(x) - np.log(x).mean()
    slope: Array = np.log(y) @ centered / (centered @ centered)
    return slope


def _vertex(x: Array, y: Array) -> Array:
    """Returns the x at which the parabola in ln x is least; outside x an end, as (draws,).

    NaN for fewer than three values.
    """
    if len(x) < MIN_VALUES:
        return np.full(len(y), np.nan)
    basis = np.stack([np.ones_like(x), np.log(x), np.log(x) ** 2], 1)
    _, slope, bend = np.linalg.lstsq(basis, y.T, rcond=None)[0]
    ends = basis[[int(x.argmin()), int(x.argmax())]] @ np.stack([0 * slope, slope, bend])
    lower_end = np.where(ends[0] < ends[1], x.min(), x.max())
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        vertex: Array = np.exp(-slope / (2 * bend))
    return np.where(bend > 0, np.clip(vertex, x.min(), x.max()), lower_end)


def _no_optimum(vertex: float, *, spread: Interval, x: Array, laws: tuple[Law, ...]) -> str:
    """Returns why no optimum was seen, or nothing."""
    low, high = float(x.min()), float(x.max())
    held_out = {law.form.name: law.error_held_out for law in laws}
    if held_out["parabola"] > held_out["constant"] - _ROUNDING:
        return "a parabola predicts the values left out no better than a constant does"
    if vertex >= high:
        return f"no optimum seen up to {high:g}"
    if vertex <= low:
        return f"no optimum seen down to {low:g}"
    if math.isnan(held_out["parabola"]):
        return "a parabola passes through any three values: no optimum can be told"
    if spread.low <= low and spread.high >= high:
        return f"its interval spans all values tried, {low:g} to {high:g}"
    return ""

"""Draws the figures of the chapter; importing this module loads matplotlib."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from orchestrator.report.canvas import (
    WIDTH_IN,
    XScale,
    chart_height_in,
    legend,
    new_chart,
    svg_of,
    x_axis,
    x_scale,
)
from orchestrator.report.charts import line_handle
from orchestrator.report.style import INK, Styles
from orchestrator.theory.forms import FORMS

_NUM_CURVE_POINTS = 120
_DODGE_FRAC = 0.012  # of the axis, between the bars of two methods at the same value
_ROW_IN = 0.3
_ROWS_MARGIN_IN = 1.2
_NAME_COLUMNS = 30  # of the name of the x axis, which has half the figure's width
_METHODS_FRAC = 0.6  # of a row, over which the methods' marks are spread


@dataclass(frozen=True, kw_only=True)
class LawCurve:
    """The means of one method along an axis, and the law that is drawn through them."""

    method: str
    values: Sequence[float]
    losses: Sequence[float]
    """Nats per image."""
    low: Sequence[float]
    """Lower ends of the bars; NaN for none."""
    high: Sequence[float]
    form: str
    params: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A number with an interval, in the row of a predictor."""

    row: str
    method: str
    value: float
    low: float
    """NaN for no interval."""
    high: float


def law_chart(axis: str, curves: Sequence[LawCurve], *, styles: Styles) -> bytes:
    """Returns the chart of the losses along an axis with the preferred law of each method."""
    scale = x_scale(axis, [f"{value:g}" for curve in curves for value in curve.values])
    height_in = chart_height_in(scale, num_handles=len(curves))
    with new_chart(WIDTH_IN, height_in) as (figure, axes):
        for number, curve in enumerate(curves):
            shift = (number - (len(curves) - 1) / 2) * _DODGE_FRAC
            _points(axes, curve, scale=scale.shifted(shift), styles=styles)
            _curve(axes, curve, scale=scale, styles=styles)
        x_axis(axes, name=axis, scale=scale)
        axes.set_ylabel("merged loss, nats per image")
        axes.set_title("macro (mean over tasks)")
        axes.grid(visible=True, axis="y")
        legend(figure, [line_handle(curve.method, styles[curve.method]) for curve in curves])
        return svg_of(figure)


def interval_chart(
    marks: Sequence[Mark], *, name: str, title: str, styles: Styles, limits: tuple[float, float]
) -> bytes:
    """Returns the chart of numbers with intervals: a row per predictor, a mark per method.

    Args:
        marks: The numbers, in the order of the rows.
        name: The name of the numbers, for the x axis.
        title: The title of the chart.
        styles: The look of the methods.
        limits: The ends of the x axis; intervals beyond them are cut off.
    """
    rows = list(dict.fromkeys(mark.row for mark in marks))
    methods = list(dict.fromkeys(mark.method for mark in marks))
    spread = _METHODS_FRAC / max(1, len(methods))
    height_in = _ROWS_MARGIN_IN + len(rows) * max(_ROW_IN, 0.11 * len(methods))
    with new_chart(WIDTH_IN + 1.2, height_in) as (figure, axes):
        for mark in marks:
            shift = (methods.index(mark.method) - (len(methods) - 1) / 2) * spread
            y, style = rows.index(mark.row) + shift, styles[mark.method]
            axes.plot([mark.low, mark.high], [y, y], color=style.color, lw=1.4)
            axes.plot([mark.value], [y], style.marker, color=style.color, ms=5)
        axes.axvline(0.0, color=INK, lw=1.0)
        axes.set_xlim(*limits)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel("\n".join(textwrap.wrap(name, _NAME_COLUMNS)))
        axes.set_title(title)
        legend(figure, [line_handle(method, styles[method]) for method in methods])
        return svg_of(figure)


def limits_of(marks: Sequence[Mark]) -> tuple[float, float]:
    """Returns ends of an x axis that show all numbers and intervals, and 0."""
    ends = [0.0, *(end for mark in marks for end in (mark.value, mark.low, mark.high))]
    finite = [end for end in ends if np.isfinite(end)]
    margin = 0.05 * (max(finite) - min(finite)) or 1.0
    return min(finite) - margin, max(finite) + margin


def _points(axes: Axes, curve: LawCurve, *, scale: XScale, styles: Styles) -> None:
    style = styles[curve.method]
    x = [scale.positions[f"{value:g}"] for value in curve.values]
    for at, low, high in zip(x, curve.low, curve.high, strict=True):
        axes.add_line(Line2D([at, at], [low, high], color=style.color, lw=1.2))
    axes.plot(x, curve.losses, style.marker, color=style.color, ms=5)


def _curve(axes: Axes, curve: LawCurve, *, scale: XScale, styles: Styles) -> None:
    x = np.array(curve.values)
    space = np.geomspace if scale.log else np.linspace
    dense = space(x.min(), x.max(), _NUM_CURVE_POINTS)
    y = FORMS[curve.form].predict(np.array(curve.params), dense)
    axes.plot(dense, y, color=styles[curve.method].color, lw=1.4)

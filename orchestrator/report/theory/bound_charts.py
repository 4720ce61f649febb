"""Draws the theory's statements beside measured losses; importing this module loads matplotlib."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from orchestrator.report.canvas import (
    WIDTH_IN,
    XScale,
    chart_height_in,
    legend,
    new_chart,
    new_charts,
    svg_of,
    x_axis,
    x_scale,
)
from orchestrator.report.charts import line_handle
from orchestrator.report.style import INK, Styles

_ROW_IN = 2.2
_TITLE_PT = 8.5
_TITLE_COLUMNS = 85
_TERM_LOOK = {
    "descent": ("#1b6e53", "<", "--"),
    "interference": ("#8c2d04", ">", "-"),
    "noise": ("#737373", "p", "-"),
    "generalisation": ("#6a51a3", "h", "-"),
}
"""Colour, marker and line of each term, none of them a method's in the same legend; the dashed one
is a gain, all others are costs."""
_FORM_LOOK = ((INK, "P", "-"), ("#a6761d", "X", "-."))
_FORMS = ("proved", "stated")


@dataclass(frozen=True, kw_only=True)
class Series:
    """A curve of one number along an axis."""

    name: str
    numbers: Mapping[str, float]
    """By the axis's value."""


@dataclass(frozen=True, kw_only=True)
class BoundRows:
    """The rows of the figure of one axis; rows without curves are left out."""

    axis: str
    values: Sequence[str]
    losses: Sequence[Series]
    """The measured loss of each method, nats per image."""
    terms: Sequence[Series]
    """The sizes of the terms, by their names, nats."""
    totals: Sequence[Series]
    """Sums and other statements about the loss."""
    stabilities: Sequence[Series]
    """By form, squared distance of weights."""
    words: str
    """The words of the formulas, for the titles of their rows."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The settings of one method: a formula's number and the measured excess at each."""

    method: str
    numbers: Sequence[float]
    excess: Sequence[float]
    """Nats per image."""
    line: tuple[float, float] | None
    """Intercept and slope of the calibration, in decades."""


def bound_chart(rows: BoundRows, *, styles: Styles) -> bytes:
    """Returns the figure of one axis: measured losses above the formulas, rows sharing the axis."""
    scale = x_scale(rows.axis, rows.values)
    parts = [
        part
        for part in (
            ("measured", rows.losses, "nats per image"),
            ("terms of the proved form", rows.terms, "size, nats"),
            ("the whole formulas", rows.totals, "nats"),
            ("stability", rows.stabilities, "weights²"),
        )
        if part[1]
    ]
    handles: dict[str, Line2D] = {}
    height_in = chart_height_in(scale, num_handles=9) + _ROW_IN * (len(parts) - 1) - 0.8
    with new_charts(WIDTH_IN, height_in, num_rows=len(parts)) as (figure, axes):
        for row, (title, series, unit) in zip(axes, parts, strict=True):
            for number, each in enumerate(series):
                look = _look(each.name, number=number, styles=styles)
                handles.setdefault(each.name, look)
                _line(row, each, scale=scale, look=look)
            is_measured = title == "measured"
            if not is_measured and _is_positive(series):
                row.set_yscale("log")
                _plain_ticks(row.yaxis)
            row.set_title(title if is_measured else _titled(title, rows.words), fontsize=_TITLE_PT)
            row.set_ylabel(unit)
            row.grid(visible=True, axis="y")
        x_axis(axes[-1], name=rows.axis, scale=scale)
        legend(figure, list(handles.values()))
        return svg_of(figure)


def calibration_chart(clouds: Sequence[Cloud], *, name: str, title: str, styles: Styles) -> bytes:
    """Returns the figure of measured excess against a formula's number, a mark per setting."""
    with new_chart(WIDTH_IN, 3.6) as (figure, axes):
        for cloud in clouds:
            style = styles[cloud.method]
            axes.plot(cloud.numbers, cloud.excess, style.marker, color=style.color, ms=5)
            if cloud.line is not None:
                ends = np.array([min(cloud.numbers), max(cloud.numbers)])
                fitted = 10 ** (cloud.line[0] + cloud.line[1] * np.log10(ends))
                axes.plot(ends, fitted, color=style.color, lw=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes.xaxis)
        _plain_ticks(axes.yaxis)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.set_xlabel(name)
        axes.set_ylabel("measured excess, nats per image")
        axes.set_title("\n".join(textwrap.wrap(title, _TITLE_COLUMNS)), fontsize=_TITLE_PT)
        axes.grid(visible=True)
        legend(figure, [line_handle(cloud.method, styles[cloud.method]) for cloud in clouds])
        return svg_of(figure)


def _titled(title: str, words: str) -> str:
    """Returns a title with the words of its formulas on lines of their own."""
    return "\n".join([title, *textwrap.wrap(words, _TITLE_COLUMNS)])


def _plain_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis without powers, which the report's figures do not typeset."""
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axis.set_minor_formatter(NullFormatter())


def _look(name: str, *, number: int, styles: Styles) -> Line2D:
    if name in styles:
        return line_handle(name, styles[name])
    look = _TERM_LOOK.get(name)
    if look is None:
        look = _FORM_LOOK[int(name.endswith(_FORMS[1]))]
        if number > 1:
            look = ("#636363", "*", look[2])
    color, marker, line = look
    return Line2D([], [], color=color, marker=marker, ls=line, ms=5, lw=1.4, label=name)


def _line(axes: Axes, series: Series, *, scale: XScale, look: Line2D) -> None:
    x = [scale.positions[value] for value in series.numbers]
    axes.plot(
        x,
        list(series.numbers.values()),
        color=look.get_color(),
        marker=str(look.get_marker()),
        ls=look.get_linestyle() if scale.continuous else "",
        ms=5,
        lw=1.4,
    )


def _is_positive(series: Sequence[Series]) -> bool:
    return all(number > 0 for each in series for number in each.numbers.values())

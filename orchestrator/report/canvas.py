"""Creates the figures, axes and legends that all charts share, and writes figures as files.

Importing this module loads matplotlib, but neither pyplot nor a display. Equal inputs give equal
bytes: the files have no dates and no program names, and the ids inside an SVG come from a fixed
salt.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from orchestrator.report.quantities import MEAN_NAMES, Quantity
from orchestrator.report.style import INK
from orchestrator.results.means import CATEGORICAL_AXES, numbers_of, ordered_values

WIDTH_IN = 5.4
_PLOT_HEIGHT_IN = 3.5
_LEGEND_COLUMNS = 3
_LEGEND_ROW_IN = 0.19
_LEGEND_CHARACTER_IN = 0.068  # mean width at the legend's size
_LEGEND_MARK_IN = 0.5  # a legend's line or box, with the spaces beside it
_TURNED_IN = 0.055  # height of one character of a turned tick label
_MANY_VALUES = 6  # tick labels of more values than this collide unless they are turned
_LONG_LABEL = 10  # so do labels of more characters than this
_MARGIN_FRAC = 0.06
_DECADE = 10
_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": "#8c959f",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "mergesweep",
    "text.color": INK,
    "text.parse_math": False,  # a method's label may contain a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True, kw_only=True)
class XScale:
    """The positions of an axis' values on the x axis of a chart."""

    positions: dict[str, float]
    """Position of each value, in order: the number itself, or the rank of a value that is a name.
    """
    log: bool
    """Whether the x axis is logarithmic: all numbers are positive and span a factor of ten."""
    continuous: bool
    """Whether a line between two values has a meaning."""

    def shifted(self, frac: float) -> "XScale":
        """Returns the scale with all positions moved by a fraction of the axis' length."""
        at = list(self.positions.values())
        if self.log:
            factor = (at[-1] / at[0]) ** frac
            moved = {value: x * factor for value, x in self.positions.items()}
        else:
            step = (at[-1] - at[0] or 1.0) * frac
            moved = {value: x + step for value, x in self.positions.items()}
        return replace(self, positions=moved)

    def ranked(self) -> "XScale":
        """Returns the scale with the values at equal distances, for bar charts."""
        ranks = {value: float(rank) for rank, value in enumerate(self.positions)}
        return XScale(positions=ranks, log=False, continuous=False)


def x_scale(axis: str, values: Sequence[str]) -> XScale:
    """Returns the scale for the values of an axis; points of grids and random draws are names."""
    ordered = ordered_values(values)
    numbers = None if axis in CATEGORICAL_AXES else numbers_of(ordered)
    if numbers is None:
        ranks = {value: float(rank) for rank, value in enumerate(ordered)}
        return XScale(positions=ranks, log=False, continuous=False)
    return XScale(
        positions=dict(zip(ordered, numbers, strict=True)),
        log=_spans_decade(numbers),
        continuous=True,
    )


@contextmanager
def new_chart(width_in: float, height_in: float) -> Iterator[tuple[Figure, Axes]]:
    """Yields an empty figure and its axes; the file must be written inside the block."""
    with new_charts(width_in, height_in, num_rows=1) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def new_charts(
    width_in: float, height_in: float, *, num_rows: int
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """Yields an empty figure and its axes, from the top, which share an x axis."""
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own style must not change the report
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        rows = figure.subplots(num_rows, 1, sharex=True, squeeze=False)[:, 0]
        for axes in rows:
            axes.set_axisbelow(True)
        yield figure, list(rows)


def chart_height_in(scale: XScale, *, num_handles: int) -> float:
    """Returns the chart's height; tick labels and legend do not make the plot itself smaller."""
    labels = list(scale.positions)
    turned_in = _TURNED_IN * max(map(len, labels)) if _is_turned(labels) else 0.0
    return _PLOT_HEIGHT_IN + turned_in + _LEGEND_ROW_IN * -(-num_handles // _LEGEND_COLUMNS)


def x_axis(axes: Axes, *, name: str, scale: XScale) -> None:
    """Puts a tick at every value, labelled as the study writes the value."""
    if scale.log:
        axes.set_xscale("log")
    labels = list(scale.positions)
    turned = _is_turned(labels)
    axes.xaxis.set_major_locator(FixedLocator(list(scale.positions.values())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(
        labels,
        rotation=35 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor",
    )
    axes.margins(x=_MARGIN_FRAC)
    axes.set_xlabel(f"{name} (log scale)" if scale.log else name)


def y_axis(
    axes: Axes,
    *,
    quantity: Quantity,
    mean: str,
    means: Sequence[float],
    reach: Sequence[float],
    from_zero: bool,
) -> None:
    """Sets limits, labels and grid of the y axis.

    A loss whose means span a factor of ten gets a logarithmic axis.

    Args:
        axes: The axes of the chart.
        quantity: The quantity that the chart shows.
        mean: `macro` or `union`.
        means: All points of the chart.
        reach: All points and the ends of their error bars; the axis shows all of these.
        from_zero: Whether a linear axis begins at zero, as bars need.
    """
    label = f"{quantity.name}, {quantity.unit}"
    means = [y for y in means if math.isfinite(y)]
    reach = [y for y in reach if math.isfinite(y)]
    if quantity.name == "loss" and _spans_decade(means):
        _log_y(axes, means=means, top=max(reach))
        label += ", log scale"
    elif reach:
        low = 0.0 if from_zero else min(reach)
        margin = _MARGIN_FRAC * (max(reach) - low) or 1.0
        axes.set_ylim(max(0.0, low - margin), max(reach) + margin)
    axes.set_ylabel(label)
    axes.set_title(MEAN_NAMES[mean])
    axes.grid(visible=True, axis="y")


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Puts the legend below the chart, where it covers nothing, in as many columns as fit.

    The figure grows by the rows that long labels need beyond those of `chart_height_in`.
    """
    labels = [str(handle.get_label()) for handle in handles]
    width_in = figure.get_figwidth()
    columns = next(
        (num for num in range(_LEGEND_COLUMNS, 1, -1) if _legend_width_in(labels, num) <= width_in),
        1,
    )
    more_rows = -(-len(labels) // columns) - -(-len(labels) // _LEGEND_COLUMNS)
    figure.set_figheight(figure.get_figheight() + more_rows * _LEGEND_ROW_IN)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)


def _legend_width_in(labels: Sequence[str], num_columns: int) -> float:
    """Returns the width of a legend that is filled column by column, as matplotlib does."""
    parts = np.array_split(np.array([len(label) for label in labels]), num_columns)
    longest = [int(part.max(initial=0)) for part in parts]
    return sum(_LEGEND_MARK_IN + _LEGEND_CHARACTER_IN * each for each in longest)


def svg_of(figure: Figure) -> bytes:
    """Returns the figure as an SVG file with a transparent background."""
    buffer = io.BytesIO()
    dateless = {"Date": None, "Creator": None}
    figure.savefig(buffer, format="svg", transparent=True, metadata=dateless)
    return buffer.getvalue()


def _spans_decade(numbers: Sequence[float]) -> bool:
    """Returns whether all numbers are positive and the largest is ten times the smallest."""
    return bool(numbers) and min(numbers) > 0 and max(numbers) >= _DECADE * min(numbers)


def _is_turned(labels: Sequence[str]) -> bool:
    return len(labels) > _MANY_VALUES or any(len(label) > _LONG_LABEL for label in labels)


def _log_y(axes: Axes, *, means: Sequence[float], top: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(min(means) / 1.6, 1.2 * top)
    steps = (1.0, 2.0, 5.0) if max(means) < 1e3 * min(means) else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_locator(NullLocator())

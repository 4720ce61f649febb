"""The sheet that the charts are drawn on: style, axes, legend, and the finished file.

Nothing here touches pyplot or a display. Equal inputs give equal bytes: dates and program names
stay out of the files, and the ids inside an SVG come from a fixed salt.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from orchestrator.report.quantities import MEAN_NAMES, Quantity
from orchestrator.report.scales import Scale, spans_decade
from orchestrator.report.svg import INK

WIDTH_IN = 5.4
_PLOT_HEIGHT_IN = 3.5
_LEGEND_COLUMNS = 3
_LEGEND_ROW_IN = 0.19
_TURNED_IN = 0.055  # a character of a turned label
_MANY_VALUES = 6  # with more, tick labels collide unless they are turned
_LONG_LABEL = 10  # the same for labels of more characters than this
_MARGIN_FRAC = 0.06
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
    "text.parse_math": False,  # a method's label may hold a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def new_chart(width_in: float, height_in: float) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty figure and its axes; the file is to be made inside the block."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.subplots()
        axes.set_axisbelow(True)
        yield figure, axes


def chart_height_in(scale: Scale, *, num_handles: int) -> float:
    """Return a height that leaves the plot itself the same with long labels or many methods."""
    labels = list(scale.positions)
    turned_in = _TURNED_IN * max(map(len, labels)) if _is_turned(labels) else 0.0
    return _PLOT_HEIGHT_IN + turned_in + _LEGEND_ROW_IN * -(-num_handles // _LEGEND_COLUMNS)


def x_axis(axes: Axes, *, name: str, scale: Scale) -> None:
    """Put a tick at every value, labelled as the study writes it."""
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
    """Choose limits that hold all of `reach`; a loss whose means span a decade is logarithmic."""
    label = f"{quantity.name}, {quantity.unit}"
    means = [y for y in means if math.isfinite(y)]
    reach = [y for y in reach if math.isfinite(y)]
    if quantity.name == "loss" and spans_decade(means):
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
    """Put the legend under the chart, where it hides nothing."""
    labels = [str(handle.get_label()) for handle in handles]
    figure.legend(
        handles, labels, loc="outside lower center", ncols=_LEGEND_COLUMNS, columnspacing=1.2
    )


def file_of(figure: Figure, file_format: str) -> bytes:
    """Return the figure as a file; an SVG has no background of its own, a PNG a white one."""
    buffer = io.BytesIO()
    if file_format == "svg":
        dateless = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=dateless)
    else:
        figure.savefig(buffer, format=file_format, dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _is_turned(labels: Sequence[str]) -> bool:
    return len(labels) > _MANY_VALUES or any(len(label) > _LONG_LABEL for label in labels)


def _log_y(axes: Axes, *, means: Sequence[float], top: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(min(means) / 1.6, 1.2 * top)
    steps = (1.0, 2.0, 5.0) if max(means) < 1e3 * min(means) else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_locator(NullLocator())

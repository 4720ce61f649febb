"""Draws line charts and bar charts along an axis; importing this module loads matplotlib."""

import math
from dataclasses import dataclass

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from orchestrator.report.canvas import (
    WIDTH_IN,
    XScale,
    chart_height_in,
    legend,
    new_chart,
    svg_of,
    x_axis,
    x_scale,
    y_axis,
)
from orchestrator.report.quantities import Quantity, fullest
from orchestrator.report.style import INK, MethodStyle, Styles
from orchestrator.results.means import SettingMean

# Between two methods at the same value, as a fraction of the axis: keeps error bars apart.
_DODGE_FRAC = 0.008
_BAR_WIDTH_IN = 0.17  # a chart of more than 30 bars becomes wider, and its bars do not get thinner
_CLUSTER_FRAC = 0.8  # of the distance between two values, for the bars at a value


@dataclass(frozen=True, kw_only=True)
class Plot:
    """The content of one chart: the settings of an axis, one quantity and one of the two means."""

    settings: tuple[SettingMean, ...]
    quantity: Quantity
    mean: str
    styles: Styles

    @property
    def axis(self) -> str:
        """The axis of the settings."""
        return self.settings[0].axis

    @property
    def values(self) -> list[str]:
        """The axis' value of every setting and method."""
        return [setting.value for setting in self.settings]

    def of_method(self, method: str) -> list[tuple[str, float, float]]:
        """Returns value, mean and standard deviation of a method at each setting.

        The standard deviation is NaN for a single group.
        """
        factor = self.quantity.factor
        return [
            (s.value, spread.mean * factor, spread.std * factor)
            for s in self.settings
            if s.method == method
            for spread in [self.quantity.of(s, self.mean)]
        ]

    def of_model(self, model: str) -> dict[str, float]:
        """Returns the mean of `base` or `expert` at every value."""
        return {
            value: self.quantity.of(s, self.mean, model=model).mean * self.quantity.factor
            for value, s in fullest(self.settings).items()
        }


def line_chart(plot: Plot) -> bytes:
    """Returns the chart of a quantity against the values of an axis, with a line per method.

    Error bars show ± one standard deviation over the groups. A cross at the upper edge marks a
    setting at which no group has a finite value.
    """
    scale = x_scale(plot.axis, plot.values)
    height_in = chart_height_in(scale, num_handles=len(plot.styles) + 2)
    with new_chart(WIDTH_IN, height_in) as (figure, axes):
        for method, shift in _shifts(plot.styles, _DODGE_FRAC):
            _method_line(axes, plot, method=method, scale=scale.shifted(shift))
        for model, look in (("base", "--"), ("expert", ":")):
            known = plot.of_model(model)
            x = [scale.positions[value] for value in known]
            if len(known) == 1:
                axes.axhline(next(iter(known.values())), color=INK, ls=look, lw=1.2)
            else:
                axes.plot(x, list(known.values()), color=INK, ls=look, lw=1.2)
        x_axis(axes, name=plot.axis, scale=scale)
        _limits(axes, plot, from_zero=False)
        legend(figure, _handles(plot.styles, lines=True))
        return svg_of(figure)


def bar_chart(plot: Plot) -> bytes:
    """Returns the bar chart of a quantity: a cluster of bars per value, a bar per method.

    Error bars show ± one standard deviation over the groups.
    """
    scale = x_scale(plot.axis, plot.values).ranked()
    width = _CLUSTER_FRAC / len(plot.styles)
    num_bars = len(scale.positions) * len(plot.styles)
    height_in = chart_height_in(scale, num_handles=len(plot.styles) + 2)
    with new_chart(max(WIDTH_IN, _BAR_WIDTH_IN * num_bars), height_in) as (figure, axes):
        for method, shift in _shifts(plot.styles, width):
            _method_bars(axes, plot, method=method, scale=scale, width=width, shift=shift)
        for model, look in (("base", "--"), ("expert", ":")):
            for value, y in plot.of_model(model).items():
                x = scale.positions[value]
                axes.plot([x - 0.45, x + 0.45], [y, y], color=INK, ls=look, lw=1.2)
        x_axis(axes, name=plot.axis, scale=scale)
        _limits(axes, plot, from_zero=True)
        legend(figure, _handles(plot.styles, lines=False))
        return svg_of(figure)


def line_handle(label: str, style: MethodStyle) -> Line2D:
    """Returns the legend's line and marker for a method or a reference."""
    hollow = style.color == INK  # a reference, not a method
    return Line2D(
        [],
        [],
        color=style.color,
        marker=style.marker,
        markersize=6,
        markerfacecolor="none" if hollow else style.color,
        markeredgewidth=1.6 if hollow else 1.0,
        label=label,
    )


def _method_line(axes: Axes, plot: Plot, *, method: str, scale: XScale) -> None:
    style = plot.styles[method]
    points = plot.of_method(method)
    axes.errorbar(
        [scale.positions[value] for value, _, _ in points],
        [mean for _, mean, _ in points],
        yerr=[std for _, _, std in points],
        color=style.color,
        marker=style.marker,
        markersize=5,
        linestyle="-" if scale.continuous else "none",
        linewidth=1.6,
        elinewidth=1,
        capsize=2.5,
    )
    for value, mean, _ in points:
        if math.isnan(mean):
            at = scale.positions[value]
            edge = axes.get_xaxis_transform()
            axes.plot(at, 1.0, "x", color=style.color, ms=8, mew=2, clip_on=False, transform=edge)


def _method_bars(
    axes: Axes, plot: Plot, *, method: str, scale: XScale, width: float, shift: float
) -> None:
    style = plot.styles[method]
    points = plot.of_method(method)
    axes.bar(
        [scale.positions[value] + shift for value, _, _ in points],
        [mean for _, mean, _ in points],
        width,
        yerr=[std for _, _, std in points],
        color=style.color,
        hatch=style.hatch,
        edgecolor=_bar_edge(style),
        linewidth=0,
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 1.5},
    )


def _limits(axes: Axes, plot: Plot, *, from_zero: bool) -> None:
    points = [point for method in plot.styles for point in plot.of_method(method)]
    references = [y for model in ("base", "expert") for y in plot.of_model(model).values()]
    y_axis(
        axes,
        quantity=plot.quantity,
        mean=plot.mean,
        means=[mean for _, mean, _ in points] + references,
        reach=[mean + by for _, mean, std in points for by in (-std, 0, std)] + references,
        from_zero=from_zero,
    )


def _shifts(styles: Styles, step: float) -> list[tuple[str, float]]:
    middle = (len(styles) - 1) / 2
    return [(method, (index - middle) * step) for index, method in enumerate(styles)]


def _handles(styles: Styles, *, lines: bool) -> list[Artist]:
    return [
        *(line_handle(m, s) if lines else _patch(m, s) for m, s in styles.items()),
        Line2D([], [], color=INK, ls="--", lw=1.2, label="base, same heads"),
        Line2D([], [], color=INK, ls=":", lw=1.2, label="experts"),
    ]


def _patch(label: str, style: MethodStyle) -> Patch:
    edge = _bar_edge(style)
    return Patch(facecolor=style.color, hatch=style.hatch, edgecolor=edge, lw=0, label=label)


def _bar_edge(style: MethodStyle) -> str:
    return "white" if style.hatch else style.color

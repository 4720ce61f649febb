"""Draws charts with one row per method or group; importing this module loads matplotlib."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from orchestrator.report.canvas import WIDTH_IN, legend, new_chart, svg_of
from orchestrator.report.charts import Plot, line_handle
from orchestrator.report.quantities import ACCURACY, MEAN_NAMES
from orchestrator.report.style import INK, MethodStyle, Styles
from orchestrator.results.means import Row, SettingMean
from orchestrator.results.schema import MACRO

_METHOD_ROW_IN = 0.22
_METHOD_MARGIN_IN = 1.1  # title, axis and legend
_GROUP_ROW_IN = 0.23
_GROUP_MARGIN_IN = 1.5


def method_chart(plot: Plot) -> bytes:
    """Returns the chart of a quantity at one value, with a row per method in the study's order.

    Error bars show ± one standard deviation over the groups. At the right stands what a method
    uses besides weights: the data that it reads, and modules for each task.
    """
    height_in = _METHOD_MARGIN_IN + _METHOD_ROW_IN * len(plot.settings)
    with new_chart(WIDTH_IN, height_in) as (figure, axes):
        for y, setting in enumerate(plot.settings):
            spread = plot.quantity.of(setting, plot.mean)
            style = plot.styles[setting.method]
            axes.barh(
                y,
                spread.mean * plot.quantity.factor,
                height=0.7,
                xerr=spread.std * plot.quantity.factor,
                color=style.color,
                error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 1.5},
            )
            axes.text(
                1.01,
                y,
                _use_lines(setting),
                transform=axes.get_yaxis_transform(),
                size=7,
                va="center",
            )
        for model, look, name in (("base", "--", "base, same heads"), ("expert", ":", "experts")):
            for x in plot.of_model(model).values():
                axes.axvline(x, color=INK, ls=look, lw=1.2, label=name)
        axes.set_yticks(range(len(plot.settings)), [each.method for each in plot.settings])
        axes.tick_params(axis="y", labelsize=8)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(f"{plot.quantity.name}, {plot.quantity.unit}")
        axes.set_title(MEAN_NAMES[plot.mean])
        figure.legend(loc="outside lower center", ncols=2)
        return svg_of(figure)


def group_chart(by_group: Mapping[str, Mapping[str, Row]], *, styles: Styles) -> bytes:
    """Returns the chart of every group's macro accuracy: a row per group, a mark per method."""
    base = MethodStyle(color=INK, marker="|", hatch="")
    experts = MethodStyle(color=INK, marker="d", hatch="")
    height_in = _GROUP_MARGIN_IN + _GROUP_ROW_IN * len(by_group)
    with new_chart(WIDTH_IN + 1.2, height_in) as (figure, axes):
        for y, rows in enumerate(by_group.values()):
            shared = next(iter(rows.values()))
            _mark(axes, fraction=shared["base_accuracy"], y=y, style=base)
            _mark(axes, fraction=shared["expert_accuracy"], y=y, style=experts)
            for method, row in rows.items():
                _mark(axes, fraction=row["accuracy"], y=y, style=styles[method])
        axes.set_yticks(range(len(by_group)), list(by_group))
        axes.invert_yaxis()
        axes.grid(visible=True)
        axes.set_xlabel(f"accuracy, {ACCURACY.unit}")
        axes.set_ylabel("group")
        axes.set_title(MEAN_NAMES[MACRO])
        named = {**styles, "base, same heads": base, "experts": experts}
        legend(figure, [_dot_handle(label, style) for label, style in named.items()])
        return svg_of(figure)


def _use_lines(setting: SettingMean) -> str:
    """Returns the data and the modules on a line each; an empty string for weights alone."""
    data = "" if setting.data_use == "none" else setting.data_use
    modules = "per-task modules" if setting.per_task_modules else ""
    return "\n".join(filter(None, (data, modules)))


def _mark(axes: Axes, *, fraction: float | None, y: int, style: MethodStyle) -> None:
    if fraction is not None:
        handle = _dot_handle("", style)
        handle.set_data([fraction * ACCURACY.factor], [y])
        axes.add_line(handle)
        axes.autoscale_view()


def _dot_handle(label: str, style: MethodStyle) -> Line2D:
    line = line_handle(label, style)
    line.set_linestyle("none")
    return line

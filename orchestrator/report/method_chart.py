"""The chart of an axis with one value: a bar a method, with its name beside it."""

from orchestrator.report.canvas import WIDTH_IN, file_of, new_chart
from orchestrator.report.charts import Plot
from orchestrator.report.quantities import MEAN_NAMES
from orchestrator.report.svg import INK
from orchestrator.results.means import SettingMean

_BAR_IN = 0.22
_REST_IN = 1.1


def method_chart(plot: Plot, *, file_format: str) -> bytes:
    """Return the chart of one quantity at one value, a row per method in the study's order.

    Error bars are one standard deviation over the groups, to either side. What a method has besides
    weights stands at the right.
    """
    with new_chart(WIDTH_IN, _REST_IN + _BAR_IN * len(plot.settings)) as (figure, axes):
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
                _besides(setting),
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
        return file_of(figure, file_format)


def _besides(setting: SettingMean) -> str:
    """Returns the use in two lines at most; nothing for what has weights alone."""
    data = "" if setting.data_use == "none" else setting.data_use
    modules = "per-task modules" if setting.per_task_modules else ""
    return "\n".join(filter(None, (data, modules)))

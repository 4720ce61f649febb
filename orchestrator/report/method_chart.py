"""The chart of an axis with one value: a bar a method, with its name beside it."""

from orchestrator.report.canvas import WIDTH_IN, file_of, new_chart
from orchestrator.report.charts import Plot
from orchestrator.report.quantities import MEAN_NAMES
from orchestrator.report.svg import INK

_BAR_IN = 0.22
_REST_IN = 1.1


def method_chart(plot: Plot, *, file_format: str) -> bytes:
    """Return the chart of one quantity at one value, a row per method in the study's order.

    Error bars are one standard deviation over the groups, to either side. Methods that read the
    same data, or keep modules of each task, have one color.
    """
    methods = list(plot.styles)
    uses = list(dict.fromkeys(setting.use for setting in plot.settings))
    with new_chart(WIDTH_IN, _REST_IN + _BAR_IN * len(methods)) as (figure, axes):
        for setting in plot.settings:
            spread = plot.quantity.of(setting, plot.mean)
            axes.barh(
                methods.index(setting.method),
                spread.mean * plot.quantity.factor,
                height=0.7,
                xerr=spread.std * plot.quantity.factor,
                color=f"C{uses.index(setting.use)}",
                error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 1.5},
                label=setting.use,
            )
        for model, look, name in (("base", "--", "base, same heads"), ("expert", ":", "experts")):
            for x in plot.of_model(model).values():
                axes.axvline(x, color=INK, ls=look, lw=1.2, label=name)
        axes.set_yticks(range(len(methods)), methods)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(f"{plot.quantity.name}, {plot.quantity.unit}")
        axes.set_title(MEAN_NAMES[plot.mean])
        handles, labels = axes.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=2)
        return file_of(figure, file_format)

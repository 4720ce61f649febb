"""All figures of a results table as files, by name."""

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from orchestrator.report.focus import focus_of
from orchestrator.report.palette import MethodStyle, method_styles
from orchestrator.report.quantities import QUANTITIES, by_axis
from orchestrator.results.means import SettingMean, setting_means
from orchestrator.results.schema import MACRO, MEANS

Styles = Mapping[str, MethodStyle]

GROUPS = "accuracy_by_group"


def figures(results: pa.Table, *, file_format: str = "png") -> dict[str, bytes]:
    """Return every figure of the report as a file of the format (`png` or `svg`), by file name.

    Per axis `accuracy_vs_lr.png`, `loss_vs_lr.png`, `accuracy_bars_lr.png` and `loss_bars_lr.png`
    for the mean over tasks, the same with `union_` in front for the mean over images, and once
    `accuracy_by_group.png`. A table without means gives none, an axis with one value no `vs`.
    """
    from orchestrator.report.charts import group_chart  # noqa: PLC0415 this loads matplotlib, 0.4 s

    settings = setting_means(results)
    styles = method_styles(s.method for s in settings)
    files: dict[str, bytes] = {}
    for axis, members in by_axis(settings).items():
        files |= _axis_figures(axis, members, styles, file_format)
    focus = focus_of(results, settings)
    if focus is not None:
        files[f"{GROUPS}.{file_format}"] = group_chart(
            focus.macro_by_group(),
            styles=styles,
            file_format=file_format,
        )
    return files


def stem_of(quantity: str, chart: str, axis: str, mean: str) -> str:
    """Return a figure's file name without its ending; `chart` is `vs` or `bars`."""
    prefix = "" if mean == MACRO else f"{mean}_"
    return f"{prefix}{quantity}_{chart}_{re.sub(r'[^A-Za-z0-9_-]', '_', axis)}"


def _axis_figures(
    axis: str, members: tuple[SettingMean, ...], styles: Styles, file_format: str
) -> dict[str, bytes]:
    from orchestrator.report.charts import Plot, bar_chart, line_chart  # noqa: PLC0415 the same
    from orchestrator.report.method_chart import method_chart  # noqa: PLC0415 the same

    bars = bar_chart if has_lines(members) else method_chart
    draws = {"vs": line_chart, "bars": bars}
    return {
        f"{stem_of(quantity.name, chart, axis, mean)}.{file_format}": draws[chart](
            Plot(settings=members, quantity=quantity, mean=mean, styles=styles),
            file_format=file_format,
        )
        for mean in MEANS
        for quantity in QUANTITIES
        for chart in charts_of(members)
    }


def has_lines(settings: Sequence[SettingMean]) -> bool:
    """Return whether an axis has several values, so that there is something to plot against."""
    return len({setting.value for setting in settings}) > 1


def charts_of(settings: Sequence[SettingMean]) -> tuple[str, ...]:
    """Return the kinds of charts that an axis has: `vs`, lines along it, and `bars`."""
    return ("vs", "bars") if has_lines(settings) else ("bars",)

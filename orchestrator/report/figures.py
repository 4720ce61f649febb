"""Draws all figures of a study's results, as files by name."""

import re
from collections.abc import Sequence

from orchestrator.report.focus import focus_of
from orchestrator.report.quantities import QUANTITIES, by_axis
from orchestrator.report.style import Styles, method_styles
from orchestrator.results.means import SettingMean
from orchestrator.results.schema import MACRO, MEANS
from orchestrator.results.study_results import StudyResults

GROUPS = "accuracy_by_group"
"""File name, without its ending, of the figure that shows one setting group by group."""


def figures(results: StudyResults, *, file_format: str = "png") -> dict[str, bytes]:
    """Returns every figure of the report as a file of the format (`png` or `svg`), by file name.

    Each axis has `accuracy_vs_lr.png`, `loss_vs_lr.png`, `accuracy_bars_lr.png` and
    `loss_bars_lr.png` for the mean over tasks, and the same names with the prefix `union_` for the
    mean over images. An axis with one value has no `vs` figures. `accuracy_by_group.png` is there
    once. A study without results has no figures.
    """
    # Imported here because matplotlib takes 0.4 s to load.
    from orchestrator.report.row_charts import group_chart  # noqa: PLC0415

    styles = method_styles(s.method for s in results.means)
    files: dict[str, bytes] = {}
    for axis, members in by_axis(results.means).items():
        files |= _axis_figures(axis, members, styles, file_format)
    focus = focus_of(results.merges, results.means)
    if focus is not None:
        files[f"{GROUPS}.{file_format}"] = group_chart(
            focus.macro_by_group(),
            styles=styles,
            file_format=file_format,
        )
    return files


def stem_of(quantity: str, chart: str, axis: str, mean: str) -> str:
    """Returns a figure's file name without its ending; `chart` is `vs` or `bars`."""
    prefix = "" if mean == MACRO else f"{mean}_"
    return f"{prefix}{quantity}_{chart}_{re.sub(r'[^A-Za-z0-9_-]', '_', axis)}"


def has_lines(settings: Sequence[SettingMean]) -> bool:
    """Returns whether an axis has several values, which a line chart needs."""
    return len({setting.value for setting in settings}) > 1


def charts_of(settings: Sequence[SettingMean]) -> tuple[str, ...]:
    """Returns the kinds of charts of an axis: `vs` for lines along the axis, and `bars`."""
    return ("vs", "bars") if has_lines(settings) else ("bars",)


def _axis_figures(
    axis: str, members: tuple[SettingMean, ...], styles: Styles, file_format: str
) -> dict[str, bytes]:
    from orchestrator.report.charts import Plot, bar_chart, line_chart  # noqa: PLC0415
    from orchestrator.report.row_charts import method_chart  # noqa: PLC0415

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

"""Draws all figures of a study's results, as files by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.report.fitting import one_line_of
from orchestrator.report.focus import Focus, focus_of
from orchestrator.report.quantities import QUANTITIES, Quantity, by_axis
from orchestrator.report.shown import shown_axis
from orchestrator.report.style import Styles, method_styles
from orchestrator.results.means import SettingMean
from orchestrator.results.schema import MACRO, MEANS
from orchestrator.results.study_results import StudyResults

GROUPS = "accuracy_by_group"
"""File name, without its ending, of the figure that shows one setting group by group."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of a study's results."""

    files: Mapping[str, bytes]
    """The content of each figure, by file name."""
    faults: Mapping[str, str]
    """Why a figure could not be drawn, by its file name."""


def figures(results: StudyResults) -> Figures:
    """Returns every figure of a study's results as an SVG file with a transparent background.

    Each axis has `accuracy_vs_lr.svg`, `loss_vs_lr.svg`, `accuracy_bars_lr.svg` and
    `loss_bars_lr.svg` for the mean over tasks, and the same names with the prefix `union_` for the
    mean over images. An axis with one value has no `vs` figures. `accuracy_by_group.svg` is there
    once. A study without results has no figures. A large axis is drawn in part: see `shown_axis`.
    """
    styles = method_styles(s.method for s in results.means)
    draws: dict[str, Callable[[], bytes]] = {}
    for axis, members in by_axis(results.means).items():
        draws |= _axis_draws(axis, shown_axis(members).settings, styles)
    focus = focus_of(results.merges, results.means)
    if focus is not None:
        draws[f"{GROUPS}.svg"] = partial(_group_chart, focus, styles)
    files: dict[str, bytes] = {}
    faults: dict[str, str] = {}
    for name, draw in draws.items():
        try:
            files[name] = draw()
        except Exception as error:  # noqa: BLE001 drawing may raise anything
            faults[name] = one_line_of(error)
    return Figures(files=files, faults=faults)


def on_white(svg: bytes) -> bytes:
    """Returns a figure with a white background, for pages whose own background may be dark."""
    end_of_tag = svg.index(b">", svg.index(b"<svg")) + 1
    return svg[:end_of_tag] + b'<rect width="100%" height="100%" fill="white"/>' + svg[end_of_tag:]


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


def _axis_draws(
    axis: str, members: tuple[SettingMean, ...], styles: Styles
) -> dict[str, Callable[[], bytes]]:
    return {
        f"{stem_of(quantity.name, chart, axis, mean)}.svg": partial(
            _axis_chart,
            chart,
            settings=members,
            quantity=quantity,
            mean=mean,
            styles=styles,
        )
        for mean in MEANS
        for quantity in QUANTITIES
        for chart in charts_of(members)
    }


def _axis_chart(
    chart: str,
    *,
    settings: tuple[SettingMean, ...],
    quantity: Quantity,
    mean: str,
    styles: Styles,
) -> bytes:
    # Imported here because matplotlib takes 0.4 s to load.
    from orchestrator.report.charts import Plot, bar_chart, line_chart  # noqa: PLC0415
    from orchestrator.report.row_charts import method_chart  # noqa: PLC0415

    bars = bar_chart if has_lines(settings) else method_chart
    draw = {"vs": line_chart, "bars": bars}[chart]
    plot = Plot(settings=settings, quantity=quantity, mean=mean, styles=styles)
    return draw(plot)


def _group_chart(focus: Focus, styles: Styles) -> bytes:
    from orchestrator.report.row_charts import group_chart  # noqa: PLC0415

    return group_chart(focus.macro_by_group(), styles=styles)

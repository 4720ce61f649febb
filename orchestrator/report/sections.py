"""The sections of the report, each a piece of HTML."""

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from orchestrator.record.holes import Hole
from orchestrator.report.expert_tables import expert_tables
from orchestrator.report.figures import GROUPS, charts_of, figures, has_lines, stem_of
from orchestrator.report.focus import Focus, focus_of
from orchestrator.report.markup import Cell, bullets, name_cell, paragraph, table
from orchestrator.report.number_tables import axis_table, group_table, task_table
from orchestrator.report.palette import MethodStyle, method_styles
from orchestrator.report.quantities import MEAN_NAMES, QUANTITIES, by_axis
from orchestrator.report.svg import inline_svg
from orchestrator.report.wording import (
    count,
    headline,
    method_lines,
    not_finite_lines,
    unlike_lines,
)
from orchestrator.results.means import SettingMean
from orchestrator.results.schema import MACRO, UNION

_MAX_LINES = 8  # of methods at one setting
_NUM_BROAD_BARS = 40  # more bars than this need a chart wider than a phone
Styles = Mapping[str, MethodStyle]


def holes_section(holes: Sequence[Hole]) -> str:
    """Return the box of what is missing, or nothing."""
    if not holes:
        return ""
    counts = Counter(hole.outcome for hole in holes)
    numbers = ", ".join(f"{num:,} {outcome}" for outcome, num in counts.items())
    rows = [
        [
            name_cell(hole.outcome),
            Cell(text=hole.what, css="text"),
            Cell(text=hole.reason, css="text"),
        ]
        for hole in holes
    ]
    return (
        f'<section class="holes" id="holes"><h2>Incomplete: {html.escape(numbers)}</h2>'
        + paragraph("Means below are over what exists; the groups column says over how many.")
        + table(("outcome", "what", "reason"), rows)
        + "</section>"
    )


def summary_section(settings: Sequence[SettingMean]) -> str:
    """Return what a reader should know first, in words."""
    if not settings:
        return paragraph("No merge job has committed a result yet.", css="headline")
    is_short = has_lines(settings) or len(settings) <= _MAX_LINES  # else they are the chart
    return (
        paragraph(headline(settings), css="headline")
        + bullets([*unlike_lines(settings), *(method_lines(settings) if is_short else [])])
        + paragraph(
            f"Points are percentage points of accuracy, {MEAN_NAMES[MACRO]}, on average over the "
            "groups; the base is the pretrained backbone under the same heads, on the same groups.",
            css="note",
        )
    )


def axes_section(results: pa.Table, settings: Sequence[SettingMean]) -> str:
    """Return figures and table of every axis, then the setting shown group by group."""
    styles = method_styles(s.method for s in settings)
    drawn = figures(results, file_format="svg")
    parts = [
        _axis_section(axis, members, styles, drawn) for axis, members in by_axis(settings).items()
    ]
    focus = focus_of(results, settings)
    if focus is not None:
        parts.append(_focus_section(focus, styles, drawn))
    return "\n".join(parts)


def experts_section(experts: pa.Table) -> str:
    """Return the experts' accuracies, a table per axis."""
    tables = expert_tables(experts)
    if not tables:
        return ""
    note = (
        "Test accuracy in % of every expert on its own task. Chance is 1 / classes; the base is "
        "the pretrained backbone under the task's head, before fine-tuning."
    )
    parts = [f"<h3>{html.escape(axis)}</h3>{body}" for axis, body in tables.items()]
    return _section("experts", "Experts on their own tasks", paragraph(note), *parts)


def file_section(study_yaml: str) -> str:
    """Return the study file, as it was read."""
    return _section("study-file", "Study file", f"<pre>{html.escape(study_yaml)}</pre>")


def axis_id(axis: str) -> str:
    """Return the anchor of an axis' section."""
    return f"axis-{re.sub(r'[^A-Za-z0-9_-]', '_', axis)}"


def _axis_section(
    axis: str, settings: Sequence[SettingMean], styles: Styles, drawn: Mapping[str, bytes]
) -> str:
    charts = charts_of(settings)
    broad = has_lines(settings) and len(settings) > _NUM_BROAD_BARS
    return _section(
        axis_id(axis),
        f"Axis: {axis}",
        paragraph(_groups_sentence(settings), css="note"),
        _figures(axis, MACRO, drawn, charts=charts, broad=broad),
        f"<details><summary>The same figures for {html.escape(MEAN_NAMES[UNION])}</summary>",
        _figures(axis, UNION, drawn, charts=charts, broad=broad),
        "</details>",
        bullets(not_finite_lines(settings)),
        "<h3>The numbers</h3>",
        paragraph(
            "Mean ± standard deviation over the groups. Gain: accuracy minus the base's on the "
            "same group. Normalized: accuracy over the experts' accuracy. Loss: cross-entropy in "
            "nats per image. Data: what a method reads besides the experts' weights, and whether "
            "it keeps modules of each task; methods that differ in it are not like for like. "
            "Bold: the most accurate method at a value.",
            css="note",
        ),
        axis_table(settings, styles=styles),
    )


def _groups_sentence(settings: Sequence[SettingMean]) -> str:
    fewest = min(s.num_groups for s in settings)
    most = max(s.num_groups for s in settings)
    groups = count(most, "group") if fewest == most else f"{fewest} to {most} groups"
    sizes = {s.num_tasks for s in settings}
    size = sizes.pop() if len(sizes) == 1 else None
    of_tasks = f" of {count(size, 'task')}" if size is not None else ""
    return (
        f"Points and bars are means over {groups}{of_tasks}; error bars are ± one standard "
        "deviation over the groups, none for a single group. Dashed: the base under the "
        "same heads. Dotted: the experts, each on its own task."
    )


def _figures(
    axis: str, mean: str, drawn: Mapping[str, bytes], *, charts: Sequence[str], broad: bool
) -> str:
    parts = []
    for chart in charts:
        kind = {"vs": "line plot", "bars": "bar chart"}[chart]
        for quantity in QUANTITIES:
            stem = stem_of(quantity.name, chart, axis, mean)
            label = f"Mean {quantity.name} against {axis}, {MEAN_NAMES[mean]}, {kind}"
            svg = inline_svg(drawn[f"{stem}.svg"], name=stem, label=label)
            css = ' class="broad"' if broad and chart == "bars" else ""
            parts.append(f"<figure{css}>{svg}</figure>")
    return f'<div class="figures">{"".join(parts)}</div>'


def _focus_section(focus: Focus, styles: Styles, drawn: Mapping[str, bytes]) -> str:
    svg = inline_svg(
        drawn[f"{GROUPS}.svg"], name=GROUPS, label=f"Accuracy by group at {focus.setting}"
    )
    return _section(
        "groups",
        f"Group by group at {focus.setting}",
        paragraph(f"Shown for {focus.setting}: {focus.reason}."),
        f'<figure class="single">{svg}</figure>',
        "<h3>By group</h3>",
        paragraph(f"Accuracy in %, {MEAN_NAMES[MACRO]}.", css="note"),
        group_table(focus, styles=styles),
        "<h3>By task</h3>",
        paragraph(
            "Accuracy in % on each task: mean ± standard deviation over the groups that contain "
            "it. A held-out task is in no group and in neither mean.",
            css="note",
        ),
        task_table(focus, styles=styles),
    )


def _section(anchor: str, title: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{html.escape(title)}</h2>\n{body}\n</section>'

"""Writes the sections of the report, each as a piece of HTML."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from orchestrator.record.holes import Hole
from orchestrator.report.data_table import data_table
from orchestrator.report.expert_tables import expert_tables
from orchestrator.report.figures import GROUPS, charts_of, figures, has_lines, stem_of
from orchestrator.report.focus import Focus, focus_of
from orchestrator.report.markup import (
    HtmlCell,
    bullets,
    escaped,
    inline_svg,
    name_cell,
    paragraph,
    table,
)
from orchestrator.report.number_tables import axis_table, group_table, task_table
from orchestrator.report.quantities import MEAN_NAMES, QUANTITIES, by_axis
from orchestrator.report.style import Styles, method_styles
from orchestrator.report.wording import (
    best_of_other_kinds,
    count,
    headline,
    method_lines,
    not_finite_lines,
)
from orchestrator.results.means import SettingMean
from orchestrator.results.schema import MACRO, UNION
from orchestrator.results.study_results import StudyResults
from workers.artifacts.metrics import DataMetrics

# At a single setting with more methods than this, the bar chart replaces the sentences.
_MAX_SENTENCES = 8
_NUM_BROAD_BARS = 40  # a chart of more bars than this is shown wider than a phone


def holes_section(holes: Sequence[Hole]) -> str:
    """Returns the box that lists missing experts and merges; an empty string if none is missing."""
    if not holes:
        return ""
    counts = Counter(hole.outcome for hole in holes)
    numbers = ", ".join(f"{num:,} {outcome}" for outcome, num in counts.items())
    rows = [
        [
            name_cell(hole.outcome),
            HtmlCell(text=hole.what, css="text"),
            HtmlCell(text=hole.reason, css="text"),
        ]
        for hole in holes
    ]
    return (
        f'<section class="holes" id="holes"><h2>Incomplete: {escaped(numbers)}</h2>'
        + paragraph(
            "The means below cover only the merges that exist. The column 'groups' gives the "
            "number of groups in each mean."
        )
        + table(("outcome", "what", "reason"), rows)
        + "</section>"
    )


def summary_section(settings: Sequence[SettingMean]) -> str:
    """Returns the best and the worst merges in words."""
    if not settings:
        return paragraph("No merge job has committed a result yet.", css="headline")
    is_short = has_lines(settings) or len(settings) <= _MAX_SENTENCES
    return (
        paragraph(headline(settings), css="headline")
        + bullets([*best_of_other_kinds(settings), *(method_lines(settings) if is_short else [])])
        + paragraph(
            f"Points are percentage points of accuracy, {MEAN_NAMES[MACRO]}, averaged over the "
            "groups. The base is the pretrained backbone with the experts' heads, evaluated on the "
            "same groups.",
            css="note",
        )
    )


def axes_section(results: StudyResults) -> str:
    """Returns figures and numbers of every axis, then one setting group by group."""
    settings = results.means
    styles = method_styles(s.method for s in settings)
    drawn = figures(results, file_format="svg")
    parts = [
        _axis_section(axis, members, styles, drawn) for axis, members in by_axis(settings).items()
    ]
    focus = focus_of(results.merges, settings)
    if focus is not None:
        parts.append(_focus_section(focus, styles, drawn))
    return "\n".join(parts)


def experts_section(experts: pa.Table) -> str:
    """Returns the accuracies of the experts, in a table per axis."""
    tables = expert_tables(experts)
    if not tables:
        return ""
    note = (
        "Test accuracy in % of every expert on its own task. Chance is 1 / classes. The base is "
        "the pretrained backbone with the expert's head."
    )
    parts = [f"<h3>{escaped(axis)}</h3>{body}" for axis, body in tables.items()]
    return _section("experts", "Experts on their own tasks", paragraph(note), *parts)


def data_section(datasets: Mapping[str, DataMetrics]) -> str:
    """Returns the table of the tasks' images; nothing before any image is prepared."""
    if not datasets:
        return ""
    note = (
        "Images that the study uses, and the least, median and most images of a class. Equal "
        "images have the same pixels before they are resized: test images that are training images "
        "too, and training images that are there with another label too. Skipped images could not "
        "be used."
    )
    return _section("data", "Data", paragraph(note), data_table(datasets))


def file_section(study_yaml: str) -> str:
    """Returns the study file, as the user wrote it."""
    return _section("study-file", "Study file", f"<pre>{escaped(study_yaml)}</pre>")


def axis_id(axis: str) -> str:
    """Returns the anchor of an axis' section."""
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
        f"<details><summary>The same figures for {escaped(MEAN_NAMES[UNION])}</summary>",
        _figures(axis, UNION, drawn, charts=charts, broad=broad),
        "</details>",
        bullets(not_finite_lines(settings)),
        "<h3>The numbers</h3>",
        paragraph(
            "Values are mean ± standard deviation over the groups. Gain: accuracy minus the "
            "accuracy of the base on the same group. Normalized: accuracy divided by the accuracy "
            "of the experts. Loss: cross-entropy in nats per image. Data: the data that a method "
            "reads besides the experts' weights, and whether the method keeps modules for each "
            "task; compare only methods with the same entry. Bold: the most accurate method at "
            "each value.",
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
        f"Points and bars show means over {groups}{of_tasks}. Error bars show ± one standard "
        "deviation over the groups; a single group has none. Dashed line: the base with the same "
        "heads. Dotted line: the experts, each on its own task."
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
            "the task. A held-out task is in none of the groups and in neither mean.",
            css="note",
        ),
        task_table(focus, styles=styles),
    )


def _section(anchor: str, title: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{escaped(title)}</h2>\n{body}\n</section>'

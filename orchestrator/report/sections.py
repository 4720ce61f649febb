"""Writes the sections of the report, each as a piece of HTML."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from eval.counts import counted
from orchestrator.record.holes import Hole
from orchestrator.report.data_table import data_table
from orchestrator.report.expert_tables import expert_tables
from orchestrator.report.external_table import external_table
from orchestrator.report.extremes import values_table
from orchestrator.report.figures import GROUPS, Figures, charts_of, figures, has_lines, stem_of
from orchestrator.report.fitting import fault_line, piece
from orchestrator.report.focus import Focus, focus_of
from orchestrator.report.markup import (
    HtmlCell,
    bullets,
    escaped,
    inline_svg,
    linked,
    name_cell,
    paragraph,
    table,
)
from orchestrator.report.number_tables import axis_table, group_table, task_table
from orchestrator.report.quantities import MEAN_NAMES, QUANTITIES, by_axis
from orchestrator.report.shown import shown_axis
from orchestrator.report.style import Styles, method_styles
from orchestrator.report.tuning_tables import steps_tables, tuning_tables
from orchestrator.report.wording import (
    headline,
    lacking_lines,
    not_finite_lines,
    pool_note,
    summary_lines,
)
from orchestrator.results.means import SettingMean
from orchestrator.results.schema import LORA, MACRO, MICRO_BATCH, UNION
from orchestrator.results.study_results import StudyResults
from workers.artifacts.metrics import DataMetrics

# At a single setting with more methods than this, the bar chart replaces the sentences.
_MAX_SENTENCES = 8
MAX_HOLES = 1000
"""Missing experts and merges that the page lists."""
MAX_REASON_CHARS = 1000
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
            HtmlCell(text=_cut(hole.reason, most=MAX_REASON_CHARS), css="text"),
        ]
        for hole in holes[:MAX_HOLES]
    ]
    listed = f" The first {MAX_HOLES:,} are listed." if len(holes) > MAX_HOLES else ""
    return (
        f'<section class="holes" id="holes"><h2>Incomplete: {escaped(numbers)}</h2>'
        + paragraph(
            "The means below cover only the merges that exist. The column 'groups' gives the "
            f"number of groups in each mean.{listed}"
        )
        + piece(table(("outcome", "what", "reason"), rows), what="the list of holes")
        + "</section>"
    )


def summary_section(settings: Sequence[SettingMean]) -> str:
    """Returns the best and the worst merges in words."""
    if not settings:
        return paragraph("No merge job has committed a result yet.", css="headline")
    is_short = has_lines(settings) or len(settings) <= _MAX_SENTENCES
    return (
        paragraph(headline(settings), css="headline")
        + bullets(summary_lines(settings, is_short=is_short))
        + paragraph(
            f"Points are percentage points of accuracy, {MEAN_NAMES[MACRO]}, averaged over the "
            "groups. The base is the pretrained backbone with the experts' heads, evaluated on the "
            "same groups.",
            css="note",
        )
    )


def axes_section(results: StudyResults, drawn: Figures | None) -> str:
    """Returns figures and numbers of every axis, then one setting group by group.

    Args:
        results: The results to show.
        drawn: Their figures; None to draw them.
    """
    settings = results.means
    styles = method_styles(s.method for s in settings)
    drawn = drawn or figures(results)
    parts = [
        guarded(f"The section of axis {axis}", _axis_section, axis, members, styles, drawn)
        for axis, members in by_axis(settings).items()
    ]
    focus = focus_of(results.merges, settings)
    if focus is not None:
        parts.append(guarded("The section group by group", _focus_section, focus, styles, drawn))
    return "\n".join(parts)


def external_section(results: StudyResults) -> str:
    """Returns the scores of models that other tools made; empty if there are none."""
    body = external_table(results)
    return _section("external", "Models of other tools", body) if body else ""


def experts_section(experts: pa.Table) -> str:
    """Returns the accuracies of the experts, in a table per axis."""
    tables = expert_tables(experts)
    if not tables:
        return ""
    note = (
        "Test accuracy in % of every expert on its own task. Chance is 1 / classes. The base is "
        "the pretrained backbone with the expert's head."
    )
    if num_split := len(set(split_experts(experts))):
        note += (
            f" In micro-batches, because a batch did not fit the GPU: "
            f"{counted(num_split, 'expert')} (column micro_batch of experts.parquet). With "
            "BatchNorm, this is another training than with whole batches."
        )
    note += _note_on_adapters(experts)
    parts = [
        f"<h3>{escaped(axis)}</h3>{piece(body, what=f'the experts of axis {axis}')}"
        for axis, body in tables.items()
    ]
    return _section("experts", "Experts on their own tasks", paragraph(note), *parts)


def _note_on_adapters(experts: pa.Table) -> str:
    """Returns a sentence on experts that were trained as LoRA adapters; empty without any."""
    (rank, *_) = LORA
    if rank.name not in experts.column_names:
        return ""
    ids, ranks = (experts[name].to_pylist() for name in ("expert_id", rank.name))
    known = {each: found for each, found in zip(ids, ranks, strict=True) if found is not None}
    if not known:
        return ""
    num_all, span = (
        len(set(ids)),
        " to ".join(map(str, sorted({min(known.values()), max(known.values())}))),
    )
    return (
        f" LoRA adapters: {len(known)} of {num_all} experts (columns lora_rank, lora_alpha and "
        f"lora_targets), so that their task vectors have a rank of at most {span} in each layer "
        "with an adapter and are zero elsewhere. Where the theory is computed, its table of the "
        "spread compares them with experts of full rank."
    )


def tuning_section(merges: pa.Table) -> str:
    """Returns the choices of merges on validation images; nothing if they choose nothing."""
    tables, steps = tuning_tables(merges), steps_tables(merges)
    if not tables and not steps:
        return ""
    note = (
        "Values that merges chose on validation images, which no training and no score reads: mean "
        "± standard deviation over the groups, least and greatest. At an end: groups whose value "
        "is the least or the greatest that was tried, so that a wider range may be better. Loss: "
        "mean over the groups of the validation loss at each value, in nats per image; none where "
        "it is not finite in some group. Bold: the least."
    )
    of_steps = (
        "Steps that merges chose for each task among its expert's snapshots, without training. "
        "Loss: of the merge on validation images, in nats per image. Best common: the least of it "
        "if all tasks have the same steps; not measured where early stopping chose. Tried: merges, "
        "or under early stopping the snapshots of all tasks and one merge, for each value of a "
        "parameter that is tuned too. Such values were chosen together with the steps, or after "
        "early stopping."
    )
    parts = [
        f"<h3>{escaped(method)}</h3>{piece(body, what=f'the choices of {method}')}"
        for method, body in (tables | steps).items()
    ]
    notes = [*([paragraph(note)] if tables else []), *([paragraph(of_steps)] if steps else [])]
    return _section("tuning", "Choices on validation images", *notes, *parts)


def split_experts(experts: pa.Table) -> Sequence[str]:
    """Returns the ids of experts whose batches were split, once for each row of the table."""
    if MICRO_BATCH.name not in experts.column_names:
        return []
    columns = experts.select(["expert_id", MICRO_BATCH.name]).to_pylist()
    return [row["expert_id"] for row in columns if row[MICRO_BATCH.name] is not None]


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
    body = piece(data_table(datasets), what="the table of the images")
    return _section("data", "Data", paragraph(note), body)


def file_section(study_yaml: str) -> str:
    """Returns the study file, as the user wrote it."""
    body = piece(f"<pre>{escaped(study_yaml)}</pre>", what="the study file")
    return _section("study-file", "Study file", body)


def axis_id(axis: str) -> str:
    """Returns the anchor of an axis' section."""
    return f"axis-{re.sub(r'[^A-Za-z0-9_-]', '_', axis)}"


def _axis_section(axis: str, members: Sequence[SettingMean], styles: Styles, drawn: Figures) -> str:
    shown = shown_axis(members)
    settings = shown.settings
    charts = charts_of(settings)
    broad = has_lines(settings) and len(settings) > _NUM_BROAD_BARS
    return _section(
        axis_id(axis),
        f"Axis: {axis}",
        *(_whole_axis(axis, members, note=shown.note, styles=styles) if shown.note else ()),
        *(paragraph(note, css="note") for note in (pool_note(axis),) if note),
        paragraph(_groups_sentence(settings), css="note"),
        _figures(axis, MACRO, drawn, charts=charts, broad=broad),
        f"<details><summary>The same figures for {escaped(MEAN_NAMES[UNION])}</summary>",
        _figures(axis, UNION, drawn, charts=charts, broad=broad),
        "</details>",
        bullets([*lacking_lines(settings), *not_finite_lines(members)]),
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
        piece(axis_table(settings, styles=styles), what=f"the numbers of axis {axis}"),
    )


def _whole_axis(
    axis: str, members: Sequence[SettingMean], *, note: str, styles: Styles
) -> tuple[str, ...]:
    """Returns means over all values of an axis that is too large to be shown whole."""
    body = values_table(members, styles=styles)
    return (
        linked(paragraph(f"{note} All rows are in results.parquet, beside this page.")),
        f"<h3>All {escaped(axis)} values</h3>",
        paragraph("Mean ± standard deviation over the values, macro accuracy.", css="note"),
        piece(body, what=f"the means of axis {axis}"),
    )


def _groups_sentence(settings: Sequence[SettingMean]) -> str:
    fewest = min(s.num_groups for s in settings)
    most = max(s.num_groups for s in settings)
    groups = counted(most, "group") if fewest == most else f"{fewest} to {most} groups"
    sizes = {s.num_tasks for s in settings}
    size = sizes.pop() if len(sizes) == 1 else None
    of_tasks = f" of {counted(size, 'task')}" if size is not None else ""
    return (
        f"Points and bars show means over {groups}{of_tasks}. Error bars show ± one standard "
        "deviation over the groups; a single group has none. Dashed line: the base with the same "
        "heads. Dotted line: the experts, each on its own task."
    )


def _figures(axis: str, mean: str, drawn: Figures, *, charts: Sequence[str], broad: bool) -> str:
    parts = []
    for chart in charts:
        kind = {"vs": "line plot", "bars": "bar chart"}[chart]
        for quantity in QUANTITIES:
            stem = stem_of(quantity.name, chart, axis, mean)
            label = f"Mean {quantity.name} against {axis}, {MEAN_NAMES[mean]}, {kind}"
            css = ' class="broad"' if broad and chart == "bars" else ""
            parts.append(f"<figure{css}>{_figure(drawn, stem=stem, label=label)}</figure>")
    return f'<div class="figures">{"".join(parts)}</div>'


def _figure(drawn: Figures, *, stem: str, label: str) -> str:
    """Returns a figure, or the line that says why it could not be drawn."""
    name = f"{stem}.svg"
    if name in drawn.faults:
        return paragraph(f"{label}: not drawn ({drawn.faults[name]})", css="note")
    return piece(inline_svg(drawn.files[name], name=stem, label=label), what=label)


def _focus_section(focus: Focus, styles: Styles, drawn: Figures) -> str:
    figure = _figure(drawn, stem=GROUPS, label=f"Accuracy by group at {focus.setting}")
    num_shown = len(focus.macro_by_group())
    left_out = (
        f" Of {focus.num_groups:,} groups, the {num_shown // 2} best and the {num_shown // 2} "
        "worst over all methods are shown; all are in results.parquet, beside this page."
    )
    is_cut = num_shown < focus.num_groups
    shown_for = f"Shown for {focus.setting}: {focus.reason}."
    return _section(
        "groups",
        f"Group by group at {focus.setting}",
        linked(paragraph(shown_for + left_out)) if is_cut else paragraph(shown_for),
        f'<figure class="single">{figure}</figure>',
        "<h3>By group</h3>",
        paragraph(f"Accuracy in %, {MEAN_NAMES[MACRO]}.", css="note"),
        piece(group_table(focus, styles=styles), what="the table of groups"),
        "<h3>By task</h3>",
        paragraph(
            "Accuracy in % on each task: mean ± standard deviation over the groups that contain "
            "the task. A held-out task is in none of the groups and in neither mean.",
            css="note",
        ),
        piece(task_table(focus, styles=styles), what="the table of tasks"),
    )


def guarded(what: str, make: Callable[..., str], *arguments: Any) -> str:  # noqa: ANN401 any
    """Returns a part of the page, or the line that says why it could not be made."""
    try:
        return make(*arguments)
    except Exception as error:  # noqa: BLE001 a view never fails a run
        return fault_line(what, error)


def _cut(text: str, *, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _section(anchor: str, title: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{escaped(title)}</h2>\n{body}\n</section>'

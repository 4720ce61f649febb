"""Writes the chapter's parts on measurements: Corollary 1, and what the training shows."""

import math
from collections.abc import Iterator

from orchestrator.report.markup import HtmlCell, name_cell, table
from orchestrator.report.style import Styles
from orchestrator.report.wording import MISSING
from orchestrator.theory.answers import Answers
from orchestrator.theory.evidence.corollary import ratios
from orchestrator.theory.schema import OPERATORS, REACHES

SPREAD_TEXT = (
    "The spread is the mean squared distance of a group's task vectors (expert minus base) from "
    "their mean; the relative spread divides it by the mean's squared length. The paper's "
    "Corollary 1 says that methods such as TIES and DARE merge better because they lower it. "
    "Stability is another question: how much the merge changes when its experts do. It is shown by "
    "putting the base in the place of one expert: the share of the merge's signs that flip, and "
    "how far it moves. Both are beside those of the plain average. Exchanging one image is a far "
    "smaller change, for which methods that elect signs can be much less stable than shown here."
)
TRAINING_TEXT = (
    "Path reach: along the straight path from the base to an expert, on its own task and under its "
    "own head, the curvature that the path met divided by its slope at the base. Up to a magnitude "
    "of 1, a second-order expansion around the base is usable; up to 3 it has the right order; "
    "beyond 3, no local theory describes the training. Negative: the loss curves downwards. "
    "Heterogeneity: how far the tasks' gradients at the base lie from their mean; not resolved: no "
    "larger than the noise "
    "of the images. Chi-square: 0 if all tasks weigh alike in what the merge descends on."
)


def measured_figures(answers: Answers, *, styles: Styles) -> Iterator[tuple[str, str, bytes]]:
    """Yields the figure of what methods do to task vectors, if any was measured."""
    # Imported here because matplotlib takes 0.4 s to load.
    from orchestrator.report.theory.charts import Mark, interval_chart, limits_of  # noqa: PLC0415

    rows = answers.rows(OPERATORS)
    names = {"spread": "spread", "relative": "relative spread", "moved": "move without one expert"}
    marks = []
    for name, shown in names.items():
        for method in dict.fromkeys(row["method"] for row in rows):
            found = ratios([row for row in rows if row["method"] == method], name)
            if found:
                mean = sum(map(math.log10, found)) / len(found)
                low, high = math.log10(min(found)), math.log10(max(found))
                marks.append(Mark(row=shown, method=method, value=mean, low=low, high=high))
    if marks:
        drawn = interval_chart(
            marks,
            name="log10 of after / before (0: unchanged, 1: ten times)",
            title="measured",
            styles=styles,
            limits=limits_of(marks),
        )
        label = (
            "What each method does to the task vectors of a group: left of 0 it makes the number "
            "smaller. Marks: means over groups and settings; lines: from the least to the largest. "
            "A move further right than 0 says that the method's merge depends more on each expert "
            "than the plain average does."
        )
        yield "operators", label, drawn


def operator_table(answers: Answers) -> str:
    """Returns spread, relative spread and stability before and after, per method and group."""
    names = ("spread", "relative", "flipped", "moved")
    rows = [
        [
            name_cell(f"{row['method']}, {row['setting']}"),
            HtmlCell(text=row["group"], css="text"),
            *(
                HtmlCell(text=_short(row[f"{name}_{when}"]))
                for name in names
                for when in ("before", "after")
            ),
        ]
        for row in answers.rows(OPERATORS)
    ]
    head = [f"{name} {when}" for name in names for when in ("before", "after")]
    return table(("method, setting", "group", *head), rows) if rows else ""


def reach_table(answers: Answers) -> str:
    """Returns the path reach of every expert with predicted and measured change of its loss."""
    rows = [
        [
            name_cell(f"{row['setting']}, {row['task']}"),
            HtmlCell(text=_short(row["reach"])),
            HtmlCell(text=_short(row["reach_error"])),
            HtmlCell(text=_short(row["predicted_change"])),
            HtmlCell(text=_short(row["measured_change"])),
            HtmlCell(text=_short(row["length"])),
        ]
        for row in answers.rows(REACHES)
    ]
    head = ("setting, task", "path reach", "standard error", "predicted change, nats")
    return table((*head, "measured change", "length of the task vector"), rows) if rows else ""


def _short(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"

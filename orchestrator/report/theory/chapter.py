"""Writes the report's chapter on what the results show about merging."""

import math
from collections.abc import Iterator

from eval.counts import counted
from orchestrator.report.fitting import piece
from orchestrator.report.markup import bullets, escaped, inline_svg, paragraph
from orchestrator.report.style import Styles, method_styles
from orchestrator.report.theory.bound_parts import (
    BOUND_TEXT,
    CALIBRATION_TEXT,
    bound_figures,
    bound_table,
    calibration_table,
)
from orchestrator.report.theory.measured_parts import (
    SPREAD_TEXT,
    TRAINING_TEXT,
    measured_figures,
    operator_table,
    reach_table,
)
from orchestrator.report.theory.tables import (
    correlation_table,
    estimate_table,
    is_over_all,
    law_table,
    pair_table,
    prediction_table,
)
from orchestrator.results.schema import MACRO
from orchestrator.results.study_results import StudyResults
from orchestrator.theory.answers import Answers
from orchestrator.theory.findings import (
    BOUNDS_HOLD,
    DIFFERENCES,
    MISSING,
    RANKS,
    SHAPES,
    SKILL,
    SPREAD,
    TRAINING,
    findings,
    loss_pairs,
    shown_name,
)
from orchestrator.theory.held_out import PROTOCOLS, RMSE
from orchestrator.theory.ranks import KINDS
from orchestrator.theory.schema import CORRELATIONS, LAWS, PREDICTIONS
from orchestrator.theory.table_rows import Columns
from orchestrator.theory.targets import EXCESS

ANCHOR = "theory"
CHAPTER_START = f'<section id="{ANCHOR}">'
_INTERVALS = (
    "An interval is the widest of three: over the groups (95 %, resampled), over the tasks (the "
    "range when all groups with one task are left out) and over the settings (the range when one "
    "setting is left out). Groups share tasks and settings, so the first alone is too narrow. The "
    "two ranges have no level: they show what a number rests on, and other tasks may lie outside."
)
_DIFFERENCE_TEXT = (
    "Groups are the same at every setting and for every method, so losses are compared within each "
    "group and most of the spread between groups, which is the tasks', cancels. Difference: loss "
    "of the best minus loss of the other, mean over the groups, in nats per image. Interval: 95 %, "
    "Student's t over the groups or over the tasks, the wider one. p: corrected for all pairs of "
    "the family (Holm), so that the best one may be picked from the same numbers. Bold: told apart "
    "at p < 0.05."
)
_LAW_TEXT = (
    "Points: mean loss at each value, over the groups that all values have. Bars: the 95 % "
    "interval of the paired difference from the same method's best value, drawn from that value's "
    "loss; a bar that ends above the best point is a real difference, before the correction for "
    "many pairs. Lines: the preferred form of each method, which predicts left-out values best."
)
_LAW_TABLE_TEXT = (
    "Error: root mean square in nats per image. Held out: each value is predicted from the others. "
    "The form with the least held-out error is preferred (bold); within 10 % of it, the one with "
    "the fewest parameters. Constant and straight line are always shown. A description has so many "
    "parameters that its values cannot test it."
)
_RANK_TEXT = (
    "Spearman's rank correlation of each predictor with the merged loss: 1 means that a higher "
    "number always goes with a higher loss, -1 the reverse, 0 no relation. Lines: the widest "
    "interval. base_loss and expert_loss are measured: the loss of the base under the experts' "
    "heads, and of the experts on their own tasks. A predictor with (score) is a formula, whose "
    "order alone has a meaning; all others are measured."
)
_KIND_TEXTS = {
    "within groups": "Within groups, over all settings: does the number rank settings?",
    "across groups": "Across groups, at one setting: does the number rank groups of tasks?",
    "pooled": "Pooled, settings and groups together: both at once; high where tasks differ much.",
}
_SKILL_TEXT = (
    "Each predictor is fitted to some merges and predicts the others: without one setting, without "
    "all groups that have one task, or without both. Shown: the error of the predicted excess "
    "(root mean square, nats per image) minus that of the best of three baselines: a constant, "
    "base_loss and expert_loss. Left of 0 is better than all; a line that crosses 0 settles "
    "nothing. Excess: loss of the merge minus the least loss that its tasks' experts have at any "
    "setting. Spearman: within groups, of the predictions. Regret: loss of the setting that is "
    "predicted to be best minus the least loss in the group. A merge with its evaluation is one "
    "pass over the test images, so a predictor that needs experts pays only where merges are many."
)


MAX_SHOWN = 6
"""Findings of a question that are seen at once; a study of four methods and axes has 30."""


def theory_chapter(answers: Answers | None, *, results: StudyResults) -> str:
    """Returns the chapter as HTML; an empty string without answers, or without any merge.

    Args:
        answers: The theory tables of the same results.
        results: The study's results.
    """
    if answers is None or not results.means:
        return ""
    styles = method_styles(mean.method for mean in results.means)
    texts: dict[str, list[str]] = {}
    for finding in findings(answers):
        texts.setdefault(finding.question, []).append(finding.text)
    parts = [
        paragraph(
            "Every number here has a label: measured, fitted to measured numbers, or a score, that "
            f"is a formula whose order alone has a meaning. {_INTERVALS}",
            css="note",
        ),
        _part(DIFFERENCES, texts, _DIFFERENCE_TEXT, *_pair_parts(answers)),
        _part(
            SHAPES,
            texts,
            _LAW_TEXT,
            _figures(_law_figures(answers, styles=styles)),
            *_details("All forms with their errors", _LAW_TABLE_TEXT, law_table(answers)),
            *_details("Exponents and optima", "", estimate_table(answers)),
        ),
        _part(
            RANKS,
            texts,
            _RANK_TEXT,
            _figures(_rank_figures(answers, styles=styles)),
            *_details("All rank correlations", "", correlation_table(answers)),
        ),
        _part(
            SKILL,
            texts,
            _SKILL_TEXT,
            _figures(_skill_figures(answers, styles=styles)),
            *_details("All predictors", "", prediction_table(answers)),
        ),
        *_measured_parts(answers, texts, styles=styles),
        _part(MISSING, texts, ""),
    ]
    body = "\n".join(part for part in parts if part)
    return f"{CHAPTER_START}<h2>What the results show</h2>\n{body}\n</section>"


def _measured_parts(
    answers: Answers, texts: dict[str, list[str]], *, styles: Styles
) -> Iterator[str]:
    """Yields the parts that need measurements beside the result table."""
    yield _part(
        BOUNDS_HOLD,
        texts,
        BOUND_TEXT,
        _figures(bound_figures(answers, styles=styles)),
        *_details("All numbers of the formulas", "", bound_table(answers)),
        *_details("All calibrations", CALIBRATION_TEXT, calibration_table(answers)),
    )
    yield _part(
        SPREAD,
        texts,
        SPREAD_TEXT,
        _figures(measured_figures(answers, styles=styles)),
        *_details("All groups", "", operator_table(answers)),
    )
    yield _part(
        TRAINING,
        texts,
        TRAINING_TEXT,
        *_details("The path to every expert", "", reach_table(answers)),
    )


def _part(title: str, texts: dict[str, list[str]], note: str, *bodies: str) -> str:
    if title not in texts:
        return ""
    explained = paragraph(note, css="note") if note else ""
    shown, rest = texts[title][:MAX_SHOWN], texts[title][MAX_SHOWN:]
    more = "".join(_details(f"{counted(len(rest), 'further finding')}", "", bullets(rest)))
    return f"<h3>{escaped(title)}</h3>{bullets(shown)}{more}{explained}{''.join(bodies)}"


def _details(title: str, note: str, body: str) -> Iterator[str]:
    if body:
        explained = paragraph(note, css="note") if note else ""
        kept = piece(body, what=title)
        yield f"<details><summary>{escaped(title)}</summary>{explained}{kept}</details>"


def _pair_parts(answers: Answers) -> Iterator[str]:
    yield from _details("All values of all axes", "", pair_table(answers, kind="values"))
    yield from _details("All methods at all settings", "", pair_table(answers, kind="methods"))


def _figures(drawn: Iterator[tuple[str, str, bytes]]) -> str:
    parts = [
        f"<figure>{piece(inline_svg(content, name=name, label=label), what=label)}"
        f"<figcaption>{escaped(label)}</figcaption></figure>"
        for name, label, content in drawn
    ]
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _law_figures(answers: Answers, *, styles: Styles) -> Iterator[tuple[str, str, bytes]]:
    # Imported here because matplotlib takes 0.4 s to load.
    from orchestrator.report.theory.charts import LawCurve, law_chart  # noqa: PLC0415

    laws: dict[str, list[Columns]] = {}
    for row in answers.rows(LAWS):
        if row["is_preferred"] and row["mean"] == MACRO:
            laws.setdefault(row["axis"], []).append(row)
    pairs = {
        (row["axis"], row["family"], float(row["other"])): row
        for row in loss_pairs(answers, kind="values")
        if row["axis"] in laws
    }
    for number, (axis, rows) in enumerate(laws.items()):
        curves = []
        for row in rows:
            bars = [
                _bar(pairs.get((axis, row["method"], value)), best=min(row["losses"]))
                for value in row["values"]
            ]
            curves.append(
                LawCurve(
                    method=row["method"],
                    values=row["values"],
                    losses=row["losses"],
                    low=[low for low, _ in bars],
                    high=[high for _, high in bars],
                    form=row["form"],
                    params=row["params"],
                )
            )
        label = f"Merged loss along {axis}, with the preferred law of each method"
        yield f"law-{number}", label, law_chart(axis, curves, styles=styles)


def _bar(pair: Columns | None, *, best: float) -> tuple[float, float]:
    """Returns the ends of a bar: the best loss minus the ends of the difference's interval."""
    if pair is None or pair["low"] is None:
        return math.nan, math.nan
    return best - pair["high"], best - pair["low"]


def _rank_figures(answers: Answers, *, styles: Styles) -> Iterator[tuple[str, str, bytes]]:
    from orchestrator.report.theory.charts import Mark, interval_chart  # noqa: PLC0415

    rows = [row for row in answers.rows(CORRELATIONS) if is_over_all(row)]
    for number, kind in enumerate(KINDS):
        marks = [
            Mark(
                row=shown_name(row),
                method=row["method"],
                value=row["spearman"],
                low=math.nan if row["low"] is None else row["low"],
                high=math.nan if row["high"] is None else row["high"],
            )
            for row in rows
            if row["kind"] == kind
        ]
        if marks:
            drawn = interval_chart(
                marks,
                name="Spearman's coefficient with the merged loss",
                title=kind,
                styles=styles,
                limits=(-1.05, 1.05),
            )
            yield f"ranks-{number}", _KIND_TEXTS[kind], drawn


def _skill_figures(answers: Answers, *, styles: Styles) -> Iterator[tuple[str, str, bytes]]:
    from orchestrator.report.theory.charts import (  # noqa: PLC0415
        Mark,
        interval_chart,
        limits_of,
    )

    for number, left_out in enumerate(PROTOCOLS):
        marks = [
            Mark(
                row=shown_name(row),
                method=row["method"],
                value=row["difference"],
                low=math.nan if row["low"] is None else row["low"],
                high=math.nan if row["high"] is None else row["high"],
            )
            for row in answers.rows(PREDICTIONS)
            if (row["target"], row["score"], row["left_out"]) == (EXCESS, RMSE, left_out)
            and row["difference"] is not None
        ]
        if marks:
            drawn = interval_chart(
                marks,
                name="error minus the best baseline's, nats per image",
                title=f"{left_out} left out",
                styles=styles,
                limits=limits_of(marks),
            )
            yield f"skill-{number}", f"Predictions with {left_out} left out", drawn

"""Writes the chapter's tables of numbers."""

from collections.abc import Mapping, Sequence

from orchestrator.report.markup import HtmlCell, name_cell, table
from orchestrator.report.wording import MISSING
from orchestrator.results.schema import MACRO
from orchestrator.theory.answers import Answers
from orchestrator.theory.findings import is_apart, law_text, loss_pairs
from orchestrator.theory.held_out import RMSE
from orchestrator.theory.predictor_rows import ALL_AXES, LOSS
from orchestrator.theory.schema import CORRELATIONS, ESTIMATES, LAWS, PREDICTIONS
from orchestrator.theory.table_rows import Columns, interval_text
from orchestrator.theory.targets import EXCESS

_LEAST_P_SHOWN = 1e-4


def pair_table(answers: Answers, *, kind: str) -> str:
    """Returns the paired comparisons of macro losses, `values` of axes or `methods`."""
    rows = [
        [
            name_cell(f"{row['family']}, {row['axis']}" if row["axis"] else row["family"]),
            HtmlCell(text=row["best"], css="text"),
            HtmlCell(text=row["other"], css="text"),
            HtmlCell(text=f"{row['difference']:+z.3f}", css="best" if is_apart(row) else ""),
            HtmlCell(text=interval_text(row), css="text"),
            HtmlCell(text=f"{row['num_better']} of {row['num_groups']}"),
            HtmlCell(text=p_text(row["p_holm"])),
            HtmlCell(text=str(row["num_pairs"])),
        ]
        for row in loss_pairs(answers, kind=kind)
    ]
    first = "method, axis" if kind == "values" else "setting"
    head = (first, "best", "other", "difference", "95 % interval", "better in", "p", "pairs")
    return table(head, rows) if rows else ""


def law_table(answers: Answers) -> str:
    """Returns all forms of every axis and method with their errors; the preferred one is bold."""
    rows = []
    for row in answers.rows(LAWS):
        if row["mean"] != MACRO:
            continue
        css = "best" if row["is_preferred"] else ""
        remark = "description" if row["is_description"] else ""
        rows.append(
            [
                name_cell(f"{row['method']}, {row['axis']}"),
                HtmlCell(text=row["form"], css="text"),
                HtmlCell(text=law_text(row), css="text"),
                HtmlCell(text=f"{row['error_in_sample']:.3f}"),
                HtmlCell(text=_three(row["error_held_out"]), css=css),
                HtmlCell(text=str(row["num_values"])),
                HtmlCell(text=remark, css="text"),
            ]
        )
    head = ("method, axis", "form", "fit", "error", "error held out", "values", "remark")
    return table(head, rows) if rows else ""


def estimate_table(answers: Answers) -> str:
    """Returns exponents and optima with their intervals, or the reason why there is no optimum."""
    rows = [
        [
            name_cell(f"{row['method']}, {row['axis']}"),
            HtmlCell(text=row["quantity"], css="text"),
            HtmlCell(text=MISSING if row["value"] is None else f"{row['value']:.4g}"),
            *(HtmlCell(text=range_text(row, over)) for over in ("groups", "tasks", "settings")),
            HtmlCell(text=row["note"] or f"widest: {row['over']}", css="text"),
        ]
        for row in answers.rows(ESTIMATES)
        if row["mean"] == MACRO
    ]
    head = ("method, axis", "number", "value", "groups, 95 %", "tasks", "settings", "remark")
    return table(head, rows) if rows else ""


def correlation_table(answers: Answers) -> str:
    """Returns the rank correlations with the merged loss over all settings, and per axis."""
    rows = [
        [
            name_cell(f"{row['method']}, {row['axis']}"),
            HtmlCell(text=row["predictor"], css="text"),
            HtmlCell(text=row["label"], css="text"),
            HtmlCell(text=row["kind"], css="text"),
            HtmlCell(text=_signed(row["spearman"])),
            HtmlCell(text=_signed(row["kendall"])),
            *(HtmlCell(text=range_text(row, over)) for over in ("groups", "tasks", "settings")),
            HtmlCell(text=_values_text(row), css="text"),
        ]
        for row in answers.rows(CORRELATIONS)
        if row["target"] == LOSS
    ]
    head = ("method, axis", "predictor", "label", "kind", "Spearman", "Kendall")
    return table((*head, "groups, 95 %", "tasks", "settings", "values"), rows) if rows else ""


def prediction_table(answers: Answers) -> str:
    """Returns the scores of all predictors on the excess, and their gaps to the best baseline."""
    found: dict[tuple[str, str, str], dict[str, Columns]] = {}
    for row in answers.rows(PREDICTIONS):
        if row["target"] == EXCESS:
            key = (row["method"], row["left_out"], row["predictor"])
            found.setdefault(key, {})[row["score"]] = row
    rows = [_prediction_cells(key, scores) for key, scores in found.items()]
    head = ("method, left out", "predictor", "label", "needs", "settings", "error")
    beside = ("minus best baseline's", "interval", "Spearman", "regret")
    return table((*head, *beside), rows) if rows else ""


def _prediction_cells(
    key: tuple[str, str, str], scores: Mapping[str, Columns]
) -> Sequence[HtmlCell]:
    method, left_out, predictor = key
    error = scores[RMSE]
    return [
        name_cell(f"{method}, {left_out}", css="reference" if error["is_baseline"] else ""),
        HtmlCell(text=predictor, css="text"),
        HtmlCell(text=error["label"], css="text"),
        HtmlCell(text=error["needs"], css="text"),
        HtmlCell(text=str(error["num_settings"])),
        HtmlCell(text=_three(error["value"]), css="best" if error["is_better"] else ""),
        HtmlCell(
            text=f"{error['difference']:+z.3f}" if error["difference"] is not None else MISSING
        ),
        HtmlCell(text=interval_text(error), css="text"),
        HtmlCell(text=_signed(scores["spearman"]["value"])),
        HtmlCell(text=_three(scores["regret"]["value"])),
    ]


def is_over_all(row: Columns) -> bool:
    """Returns whether a correlation with the merged loss is over all settings, and exists."""
    return bool(row["axis"] == ALL_AXES and row["target"] == LOSS and row["spearman"] is not None)


def range_text(row: Columns, over: str) -> str:
    """Returns one of a row's intervals."""
    low, high = row[f"{over}_low"], row[f"{over}_high"]
    return MISSING if low is None or high is None else f"{low:.3g}\u00a0to\u00a0{high:.3g}"


def p_text(p_value: float | None) -> str:
    """Returns a p-value; small ones as an upper end."""
    if p_value is None:
        return MISSING
    return f"{p_value:.4f}" if p_value >= _LEAST_P_SHOWN else f"<\u00a0{_LEAST_P_SHOWN:.4f}"


def _values_text(row: Columns) -> str:
    text = f"{row['num_values']} values"
    return f"{text}: p at least {row['least_p']:.2g}" if row["least_p"] > 1e-3 else text  # noqa: PLR2004


def _signed(value: float | None) -> str:
    return MISSING if value is None else f"{value:+z.2f}"


def _three(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"

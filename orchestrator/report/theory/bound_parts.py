"""Writes the chapter's part on the theory's statements beside the measured losses."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from eval.counts import counted
from eval.theory.labels import Form
from orchestrator.report.markup import HtmlCell, name_cell, table
from orchestrator.report.style import Styles
from orchestrator.report.wording import MISSING
from orchestrator.theory.answers import Answers
from orchestrator.theory.evidence.bound_findings import axis_words, moving_term, rank_along
from orchestrator.theory.evidence.bound_panel import (
    BASE_LOSS,
    EXCESS_RISK,
    STABILITY,
    TERMS,
    TEST_LOSS,
)
from orchestrator.theory.schema import BOUNDS, CALIBRATIONS
from orchestrator.theory.table_rows import Columns

if TYPE_CHECKING:
    from orchestrator.report.theory.bound_charts import BoundRows

BOUND_TEXT = (
    "From numbers measured at the base before training (each task's gradient, its noise from image "
    "to image, and the curvature of the loss) and from the hyperparameters, formulas state what a "
    "merge loses. The proved form of its test loss is the loss at the base plus four terms. "
    "Descent: the gain of one step along the tasks' mean gradient, as long as the training; it is "
    "below 0 and drawn by its size, dashed. Interference: the loss because experts drift apart and "
    "count unequally. Noise: of the batches, as far as averaging leaves it. Generalisation: test "
    "minus training loss, from how far one exchanged image would move the merge (its stability). "
    "The stated form is that of the paper arXiv:2601.21690; counterexamples exist, so that it is "
    "never a bound. Both forms stand apart and are never mixed. The word says what a number is "
    "worth. Bound: proved, for training so short that curvature times training length (the reach) "
    "is at most 1/2. Score: beyond that, or where a condition of the proof fails (ReLU, Adam, a "
    "trained head): its size means nothing, its order may. Outside any local theory: along the "
    "experts' paths the curvature cost more than three times what the slope gained, so that "
    "numbers from the base describe nothing."
)
CALIBRATION_TEXT = (
    "Fit: log10 of the measured excess = A + C log10 of the formula's number, one point per "
    "setting (mean over the groups, all axes together), with Huber's loss. C = 1: proportional; "
    "below 0: the formula orders the settings backwards. R²: the share of the differences that the "
    "line explains. Error: in decades. Axis left out: the settings of each axis are predicted from "
    "the other axes."
)


def bound_figures(answers: Answers, *, styles: Styles) -> Iterator[tuple[str, str, bytes]]:
    """Yields the figure of every axis, then one of each formula against the measured excess."""
    rows = answers.rows(BOUNDS)
    # Imported here because matplotlib takes 0.4 s to load.
    from orchestrator.report.theory.bound_charts import bound_chart  # noqa: PLC0415

    for number, axis in enumerate(dict.fromkeys(row["axis"] for row in rows)):
        along = [row for row in rows if row["axis"] == axis]
        methods = list(dict.fromkeys(row["method"] for row in along))
        if len({row["value"] for row in along}) > 1:
            drawn = bound_chart(_bound_rows(along, methods=methods), styles=styles)
            yield f"bounds-{number}", _axis_caption(answers, along, axis=axis), drawn
    yield from _calibration_figures(answers, rows, styles=styles)


def bound_table(answers: Answers) -> str:
    """Returns all numbers of all statements, at every value of every axis."""
    rows = [
        [
            name_cell(f"{row['method']}, {row['axis']} {row['value']}"),
            HtmlCell(text=row["quantity"], css="text"),
            HtmlCell(text=f"{row['number']:.4g}"),
            HtmlCell(text=row["label"], css="text"),
            HtmlCell(text=_short(row["reach"])),
            HtmlCell(text=_short(row["path_reach"])),
            HtmlCell(text=f"{row['measured']:.3f}"),
            HtmlCell(text=f"{row['excess']:.3f}"),
        ]
        for row in answers.rows(BOUNDS)
    ]
    head = ("method, axis", "quantity", "number", "word: form", "reach", "path reach")
    return table((*head, "measured loss", "excess"), rows) if rows else ""


def calibration_table(answers: Answers) -> str:
    """Returns the calibration of every statement."""
    rows = [
        [
            name_cell(row["method"]),
            HtmlCell(text=row["quantity"], css="text"),
            HtmlCell(text=row["label"], css="text"),
            HtmlCell(text=f"{row['intercept']:.3f}"),
            HtmlCell(text=f"{row['slope']:+z.3f}"),
            HtmlCell(text=_short(row["r_squared"])),
            HtmlCell(text=f"{row['error']:.3f}"),
            HtmlCell(text=_short(row["error_left_out"])),
            HtmlCell(text=str(row["num_settings"])),
        ]
        for row in answers.rows(CALIBRATIONS)
    ]
    head = ("method", "quantity", "word: form", "A", "C", "R²", "error", "axis left out")
    return table((*head, "settings"), rows) if rows else ""


def _bound_rows(along: Sequence[Columns], *, methods: Sequence[str]) -> "BoundRows":
    from orchestrator.report.theory.bound_charts import BoundRows, Series  # noqa: PLC0415

    first = [row for row in along if row["method"] == methods[0]]

    def series(name: str, quantity: str, form: Form, *, sign: float = 1.0) -> Iterator[Series]:
        numbers = {
            row["value"]: sign * row["number"]
            for row in first
            if (row["quantity"], row["form"]) == (quantity, form)
        }
        if numbers:
            yield Series(name=name, numbers=numbers)

    return BoundRows(
        axis=first[0]["axis"],
        values=list(dict.fromkeys(row["value"] for row in along)),
        losses=[
            Series(
                name=method,
                numbers={row["value"]: row["measured"] for row in along if row["method"] == method},
            )
            for method in methods
        ],
        terms=[
            each
            for name in TERMS
            for each in series(name, name, Form.PROVED, sign=-1.0 if name == TERMS[0] else 1.0)
        ],
        totals=[
            *series("test loss, proved", TEST_LOSS, Form.PROVED),
            *series("excess risk, stated", EXCESS_RISK, Form.STATED),
            *series("loss at the base", BASE_LOSS, Form.PROVED),
        ],
        stabilities=[
            *series("stability, proved", STABILITY, Form.PROVED),
            *series("stability, stated", STABILITY, Form.STATED),
        ],
        words=axis_words(first),
    )


def _axis_caption(answers: Answers, along: Sequence[Columns], *, axis: str) -> str:
    method = along[0]["method"]
    first = [row for row in along if row["method"] == method]
    what = (
        f"Along {axis}: the measured loss of every method whose coefficients are known (top), and "
        f"below it the formulas for {method}: {axis_words(first)}."
    )
    parts = (
        what,
        moving_term(first),
        rank_along(answers, axis=axis, method=method),
        f"Means over {counted(first[0]['num_groups'], 'group')}.",
    )
    return " ".join(part for part in parts if part)


def _calibration_figures(
    answers: Answers, rows: Sequence[Columns], *, styles: Styles
) -> Iterator[tuple[str, str, bytes]]:
    from orchestrator.report.theory.bound_charts import Cloud, calibration_chart  # noqa: PLC0415

    lines = {
        (row["method"], row["quantity"], row["form"]): row for row in answers.rows(CALIBRATIONS)
    }
    kinds = dict.fromkeys((row["quantity"], row["form"]) for row in lines.values())
    for number, (quantity, form) in enumerate(kinds):
        clouds, texts = [], []
        for method in dict.fromkeys(row["method"] for row in rows):
            points = {
                (row["number"], row["excess"])
                for row in rows
                if (row["method"], row["quantity"], row["form"]) == (method, quantity, form)
            }
            line = lines.get((method, quantity, form))
            if line is None or not points:
                continue
            clouds.append(
                Cloud(
                    method=method,
                    numbers=[each for each, _ in sorted(points)],
                    excess=[each for _, each in sorted(points)],
                    line=(line["intercept"], line["slope"]),
                )
            )
            texts.append(
                f"{method}: A {line['intercept']:.2f}, C {line['slope']:+z.2f}, R² "
                f"{_short(line['r_squared'])}, error {line['error']:.2f} decades, with an axis "
                f"left out {_short(line['error_left_out'])}"
            )
        if not clouds:
            continue
        words = ", ".join(
            dict.fromkeys(
                row["label"] for row in rows if (row["quantity"], row["form"]) == (quantity, form)
            )
        )
        label = (
            f"Measured excess of each setting against the {quantity} of the {form} form ({words}), "
            f"with the fitted line log10 excess = A + C log10 number. {'; '.join(texts)}."
        )
        drawn = calibration_chart(
            clouds, name=f"{quantity}, {form} form", title=words, styles=styles
        )
        yield f"calibration-{number}", label, drawn


def _short(value: float | None) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3g}"

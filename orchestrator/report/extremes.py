"""Writes the tables that stand for many rows: means over all of them, the best and the worst."""

import math
from collections.abc import Sequence

from orchestrator.report.markup import HtmlCell, name_cell, table
from orchestrator.report.style import Styles
from orchestrator.report.wording import loss_text, percent, percent_spread
from orchestrator.results.means import Row, SettingMean, spread
from orchestrator.results.whole import whole

NUM_ENDS = 15
"""Experts at either end that a list of the best and the worst names."""


def values_table(settings: Sequence[SettingMean], *, styles: Styles) -> str:
    """Returns a row per method of an axis: means over all values, the best and the worst value.

    Only values at which the method has all groups count.
    """
    rows = []
    comparable = whole(settings)
    for method in dict.fromkeys(each.method for each in settings):
        members = [each for each in comparable if each.method == method]
        known = [each for each in members if math.isfinite(each.macro.accuracy.mean)]
        ranked = sorted(known, key=lambda each: -each.macro.accuracy.mean)
        rows.append(
            [
                name_cell(method, swatch=styles[method].color),
                HtmlCell(text=f"{len(members):,}"),
                HtmlCell(text=percent_spread(spread(e.macro.accuracy.mean for e in known))),
                HtmlCell(
                    text=percent_spread(spread(e.macro.gain.mean for e in known), signed=True)
                ),
                *(cell for each in (ranked[:1], ranked[-1:]) for cell in _value_cells(each)),
            ]
        )
    ends = ("best value", "accuracy, %", "worst value", "accuracy, %")
    return table(("method", "values", "accuracy, %", "gain, points", *ends), rows)


def expert_means_table(rows: Sequence[Row]) -> str:
    """Returns a row per task: mean and deviation over all its experts, least and most accuracy."""
    return table(
        ("task", "chance, %", "experts", "diverged", "accuracy, %", "least", "most", "base, %"),
        [
            _task_row(task, [row for row in rows if row["task"] == task])
            for task in sorted({row["task"] for row in rows})
        ],
    )


def expert_ends_table(rows: Sequence[Row]) -> str:
    """Returns the experts with the most and with the least accuracy, an expert at most once."""
    experts = {row["expert_id"]: row for row in reversed(rows)}
    known = [row for row in experts.values() if _is_finite(row["accuracy"])]
    ranked = sorted(known, key=lambda row: (-row["accuracy"], row["expert_id"]))
    worst = ranked[NUM_ENDS:][-NUM_ENDS:]
    parts = (("best", ranked[:NUM_ENDS]), ("worst", worst))
    cells = [
        [
            name_cell(end),
            *(HtmlCell(text=row[name], css="text") for name in ("task", "setting")),
            HtmlCell(text=percent(row["accuracy"])),
            HtmlCell(text=percent(row["base_accuracy"])),
            HtmlCell(text=loss_text(row["loss"])),
            *(HtmlCell(text=row[name], css="text") for name in ("outcome", "expert_id")),
        ]
        for end, members in parts
        for row in members
    ]
    return table(
        ("", "task", "setting", "accuracy, %", "base, %", "loss", "outcome", "expert"), cells
    )


def _value_cells(end: Sequence[SettingMean]) -> list[HtmlCell]:
    if not end:
        return [HtmlCell(text="", css="text"), HtmlCell(text="")]
    (setting,) = end
    accuracy = percent(setting.macro.accuracy.mean)
    return [HtmlCell(text=setting.value, css="text"), HtmlCell(text=accuracy)]


def _task_row(task: str, rows: Sequence[Row]) -> list[HtmlCell]:
    accuracies = [row["accuracy"] for row in rows if _is_finite(row["accuracy"])]
    texts = (
        percent(1 / rows[0]["num_classes"]),
        f"{len(rows):,}",
        f"{sum(row['outcome'] == 'diverged' for row in rows):,}",
        percent_spread(spread(accuracies)),
        percent(min(accuracies, default=None)),
        percent(max(accuracies, default=None)),
        percent(spread(row["base_accuracy"] for row in rows).mean),
    )
    return [name_cell(task), *(HtmlCell(text=text) for text in texts)]


def _is_finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)

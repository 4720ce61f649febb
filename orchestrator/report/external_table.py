"""Writes the table of models that other tools made, beside the study's best merge of each group."""

from collections.abc import Mapping

import pyarrow as pa

from orchestrator.report.markup import HtmlCell, name_cell, paragraph, table
from orchestrator.report.wording import loss_text, percent
from orchestrator.results.means import Row
from orchestrator.results.schema import EXTERNAL, MACRO, UNION
from orchestrator.results.study_results import StudyResults

MAX_ROWS = 200
"""Rows that the page shows; all are in results.parquet."""


def external_table(results: StudyResults) -> str:
    """Returns the scores of external models on each group; empty if there are none.

    Each row has the study's own merge with the highest macro accuracy at the same setting, in the
    same group.
    """
    if results.external is None:
        return ""
    best = _best_merges(results.merges)
    by_place: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in results.external.to_pylist():
        place = (row["method"], row["setting"], row["group"])
        by_place.setdefault(place, {})[row["task"]] = row
    note = (
        "Models that other tools made, evaluated under the heads of the study's experts. They are "
        "in no figure and in no comparison above; `mergesweep results --pairs` compares them."
    )
    if len(by_place) > MAX_ROWS:
        note += f" The first {MAX_ROWS} of {len(by_place):,} rows; all are in results.parquet."
    head = ["model", "setting", "group", "macro, %", "union, %", "loss", "best merge, %", "sha256"]
    rows = [
        [
            name_cell(label),
            HtmlCell(text=setting, css="text"),
            HtmlCell(text=group, css="text"),
            HtmlCell(text=percent(tasks[MACRO]["accuracy"])),
            HtmlCell(text=percent(tasks[UNION]["accuracy"])),
            HtmlCell(text=loss_text(tasks[MACRO]["loss"])),
            HtmlCell(text=_best_text(best.get((setting, group)))),
            HtmlCell(text=tasks[MACRO][EXTERNAL.name][:16], css="text"),
        ]
        for (label, setting, group), tasks in list(by_place.items())[:MAX_ROWS]
    ]
    return paragraph(note) + table(head, rows)


def _best_merges(merges: pa.Table) -> Mapping[tuple[str, str], Row]:
    best: dict[tuple[str, str], Row] = {}
    for row in merges.to_pylist():
        place = (row["setting"], row["group"])
        if row["task"] == MACRO and (
            place not in best or row["accuracy"] > best[place]["accuracy"]
        ):
            best[place] = row
    return best


def _best_text(row: Row | None) -> str:
    return "" if row is None else f"{percent(row['accuracy'])} ({row['method']})"

"""`mergesweep results`: print the result table of a study, or its experts, in several formats."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pyarrow import compute
from rich.console import Console

from orchestrator.advice.next_study import next_study_text
from orchestrator.cli.ending import exit_code_of, file_command_line
from orchestrator.cli.exit_codes import DONE, FAILED, INCOMPLETE
from orchestrator.cli.printing import (
    print_candidates,
    print_experts,
    print_pairs,
    print_results,
    print_skipped,
)
from orchestrator.progress.say import say
from orchestrator.results.means import means_table
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.search.scores import scores_of
from orchestrator.search.table import candidates_table
from orchestrator.search.words import has_ended, search_lines
from orchestrator.study.method_labels import method_labels
from orchestrator.study.reader import parse_study
from orchestrator.theory.answers import paired_table
from orchestrator.theory.comparison_rows import lacking_texts
from orchestrator.theory.panel import panels
from workers.store.output_file import write_output

Shown = Literal["rows", "means", "experts", "pairs", "candidates"]
WINNER = "-winner"
"""The end of the name of a study that fixes the winner of a search."""
MAX_NAME = 63
_FORMULA = r"^[=+\-@]"
_NUMBER = r"^[+-]?[0-9.]+([eE][+-]?[0-9]+)?$"


def show_results(opened: OpenedStudy, *, console: Console, output_format: str, shown: Shown) -> int:
    """Prints the results that a study has so far; returns the exit code.

    The format `table` prints means over the groups in place of the rows.
    """
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    if output_format != "table":
        table = {
            "rows": lambda: results.rows,
            "means": lambda: means_table(results.all_means),
            "experts": lambda: results.experts,
            "pairs": lambda: paired_table(results.own_rows, external=results.external),
            "candidates": lambda: candidates_table(committed),
        }[shown]()
        sys.stdout.buffer.write(_encoded(table, output_format=output_format))
    elif shown == "experts":
        print_experts(results.experts, console=console)
    elif shown == "pairs":
        print_pairs(paired_table(results.own_rows, external=results.external), console=console)
        for text in lacking_texts(panels(results.own_rows)):
            say(console, text)
    elif shown == "candidates":
        print_candidates(
            candidates_table(committed), lines=search_lines(committed), console=console
        )
    else:
        print_results(results.all_means, console=console)
        print_skipped(results.experts, console=console)
    return exit_code_of(opened.ledger)


def write_winner(opened: OpenedStudy, *, path: Path, console: Console) -> int:
    """Writes the study file that fixes the winner of a search; returns the exit code.

    Raises:
        OutputError: The file cannot be written.
    """
    plan = opened.plan
    lines = search_lines(opened.ledger.committed())
    if not has_ended(plan):
        say(console, "; ".join(["the search has no winner yet", *lines]))
        return INCOMPLETE
    (setting,) = plan.settings
    point = setting.shared_point
    if point is None:
        say(
            console, "the winner has other hyperparameters for each task, which no study file fixes"
        )
        return FAILED
    number, steps = plan.decisions[-1].candidates[0], plan.decisions[-1].steps
    method = scores_of(opened.ledger.committed())[number, steps].method
    name = f"{plan.study.name[: MAX_NAME - len(WINNER)]}{WINNER}"
    text = next_study_text(
        opened.text,
        study=plan.study,
        name=name,
        points=[point],
        comments=[f"The winner of the search {plan.study.name}.", *lines],
        methods=[method_labels(plan.study.merge).index(str(method))],
    )
    parse_study(text, source=str(path), recorded=plan.sources, checks_store=False)
    write_output(path, text.encode())
    say(console, f"written: {path}; run it with: {file_command_line('run', path)}")
    return DONE


def _encoded(table: pa.Table, *, output_format: str) -> bytes:
    if output_format == "json":
        rows = [{name: _or_null(value) for name, value in row.items()} for row in table.to_pylist()]
        return (json.dumps(rows, indent=1, allow_nan=False) + "\n").encode()
    buffer = io.BytesIO()
    if output_format == "csv":
        pyarrow.csv.write_csv(_without_formulas(table), buffer)
    else:
        pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _or_null(value: object) -> object:
    """Returns a value of JSON, which has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_formulas(table: pa.Table) -> pa.Table:
    """Returns a table whose texts no spreadsheet takes for a formula: they get a `'` in front.

    No label of a study has a `'`, so whoever reads the table can take it away again.
    """
    for at, column in enumerate(table.schema):
        if pa.types.is_string(column.type):
            texts = table.column(at)
            is_number = compute.match_substring_regex(texts, _NUMBER)
            is_formula = compute.match_substring_regex(texts, _FORMULA)
            quoted = compute.binary_join_element_wise("'", texts, "")
            safe = compute.if_else(
                compute.and_(is_formula, compute.invert(is_number)), quoted, texts
            )
            table = table.set_column(at, column, safe)
    return table

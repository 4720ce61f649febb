"""`mergesweep results`: print the result table of a study, or its experts, in several formats."""

import io
import json
import math
import sys
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pyarrow import compute
from rich.console import Console

from orchestrator.cli.ending import exit_code_of
from orchestrator.cli.printing import (
    print_candidates,
    print_experts,
    print_pairs,
    print_results,
    print_skipped,
)
from orchestrator.results.means import means_table
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.search.table import candidates_table
from orchestrator.search.words import search_lines
from orchestrator.theory.answers import paired_table

Shown = Literal["rows", "means", "experts", "pairs", "candidates"]
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
    elif shown == "candidates":
        print_candidates(
            candidates_table(committed), lines=search_lines(committed), console=console
        )
    else:
        print_results(results.all_means, console=console)
        print_skipped(results.experts, console=console)
    return exit_code_of(opened.ledger)


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

"""`mergesweep results`: print the result table of a study, or its experts, in several formats."""

import io
import json
import sys

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console

from orchestrator.cli.ending import exit_code_of
from orchestrator.cli.printing import (
    print_experts,
    print_results,
)
from orchestrator.results.means import means_table
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy


def show_results(
    opened: OpenedStudy, *, console: Console, output_format: str, experts: bool, means: bool
) -> int:
    """Prints the results that a study has so far; returns the exit code.

    The format `table` prints means over the groups; other formats print every row, or the means if
    `means` is set.
    """
    results = StudyResults.of(opened.ledger.committed())
    if output_format == "table":
        if experts:
            print_experts(results.experts, console=console)
        else:
            print_results(results.means, console=console)
    else:
        table = results.experts if experts else results.merges
        rows = means_table(results.means) if means else table
        sys.stdout.buffer.write(_encoded(rows, output_format=output_format))
    return exit_code_of(opened.ledger)


def _encoded(table: pa.Table, *, output_format: str) -> bytes:
    if output_format == "json":
        return (json.dumps(table.to_pylist(), indent=1) + "\n").encode()
    buffer = io.BytesIO()
    if output_format == "csv":
        pyarrow.csv.write_csv(table, buffer)
    else:
        pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()

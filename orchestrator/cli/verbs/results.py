"""Prints the results of a study, or writes its report."""

import io
import json
import sys
from pathlib import Path

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
from orchestrator.run.write_outputs import report_page


def show_results(
    opened: OpenedStudy, *, console: Console, output_format: str, experts: bool, means: bool
) -> int:
    """Prints results as far as they are: on the terminal means, else every row or the means."""
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


def write_report(opened: OpenedStudy, *, path: Path, console: Console) -> int:
    """Writes the report as one HTML file."""
    results = StudyResults.of(opened.ledger.committed())
    path.write_text(report_page(opened, results=results), encoding="utf-8")
    console.print(f"wrote {path}", highlight=False)
    return exit_code_of(opened.ledger)

"""`mergesweep report`: write the report of a study as one HTML page."""

from pathlib import Path

from rich.console import Console

from orchestrator.cli.ending import exit_code_of
from orchestrator.progress.say import say
from orchestrator.progress.visible_text import one_line
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import report_or_fault
from workers.store.output_file import check_output, write_output


def write_report(opened: OpenedStudy, *, path: Path, console: Console) -> int:
    """Writes the report as one HTML file.

    Raises:
        OutputError: The file cannot be written.
    """
    check_output(path)
    results = StudyResults.of(opened.ledger.committed())
    write_output(path, report_or_fault(opened, results=results).encode())
    say(console, f"wrote {one_line(str(path))}")
    return exit_code_of(opened.ledger)

"""`mergesweep report`: write the report of a study as one HTML page."""

from pathlib import Path

from rich.console import Console

from orchestrator.cli.ending import exit_code_of
from orchestrator.progress.say import say
from orchestrator.progress.visible_text import one_line
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import report_page


def write_report(opened: OpenedStudy, *, path: Path, console: Console) -> int:
    """Writes the report as one HTML file."""
    results = StudyResults.of(opened.ledger.committed())
    path.write_text(report_page(opened, results=results), encoding="utf-8")
    say(console, f"wrote {one_line(str(path))}")
    return exit_code_of(opened.ledger)

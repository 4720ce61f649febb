"""Prints the end of a run: results, holes, exit code, and the commands that come next."""

import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Console

from eval.counts import counted
from orchestrator.cli.exit_codes import DONE, FAILED, INCOMPLETE
from orchestrator.cli.printing import (
    MAX_MEANS_SHOWN,
    print_holes,
    print_results,
    print_skipped,
)
from orchestrator.costs.budget import budget_lines
from orchestrator.progress.say import say
from orchestrator.record.folder import REPORT_FILE
from orchestrator.record.ledger import Ledger
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.search.words import has_ended, search_lines
from orchestrator.tracking.database import database_path, is_damaged
from orchestrator.tracking.tracker import PublishReport


def print_end(opened: OpenedStudy, *, results: StudyResults, console: Console) -> int:
    """Prints results, holes, budget and the next commands; returns the exit code."""
    ledger = opened.ledger
    code = exit_code_of(ledger)
    if opened.plan.study.search is not None:
        for line in search_lines(ledger.committed()):
            say(console, line)
    print_results(results.compared.means, console=console, max_rows=MAX_MEANS_SHOWN)
    print_skipped(results.experts, console=console)
    print_holes(ledger.state().holes(), console=console)
    for line in budget_lines(opened.plan, keeper=opened.budget_keeper):
        say(console, line)
    lines = {
        "report": opened.folder.location(REPORT_FILE),
        "rows": command_line("results", opened, "--format csv"),
        "MLflow": command_line("ui", opened),
    }
    if code != DONE:
        lines["rest"] = command_line("resume", opened)
    for label, text in lines.items():
        say(console, f"{label:7} {text}")
    return code


def print_pending(published: PublishReport, *, opened: OpenedStudy, console: Console) -> None:
    """Prints how many MLflow runs are still to be sent, with the command for it, and left out."""
    if published.left_out:
        say(console, published.left_out)
    if published.num_pending:
        database = database_path(opened.tracking_uri)
        is_broken = database is not None and is_damaged(published.error or "")
        remedy = f"Move the damaged file {database} away; then" if is_broken else "Nothing is lost;"
        say(
            console,
            f"MLflow at {opened.tracking_uri} lacks {counted(published.num_pending, 'run')} "
            f"({published.error}). {remedy} this command sends them: "
            f"{command_line('track', opened)}",
        )


def command_line(verb: str, opened: OpenedStudy, *options: str, name: str | None = None) -> str:
    """Returns a command to paste: the program as it was called, the store with its full URL.

    Args:
        verb: The verb.
        opened: The study.
        options: Further words.
        name: Another study of the same store; None for the study itself.
    """
    name = name or opened.plan.study.name
    return " ".join([_program(), verb, name, "--store", shlex.quote(opened.store_url), *options])


def file_command_line(verb: str, path: Path) -> str:
    """Returns a command on a study file to paste: the program as it was called."""
    return f"{_program()} {verb} {shlex.quote(str(path))}"


def _program() -> str:
    """Returns the words that start this program again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m orchestrator"
    on_path = shutil.which("mergesweep") == str(Path(called).resolve())
    return "mergesweep" if on_path else shlex.quote(called)


def exit_code_of(ledger: Ledger) -> int:
    """Returns the exit code for a study's holes: done, failed or incomplete."""
    holes = ledger.state().holes()
    if not holes:
        return DONE if has_ended(ledger.plan) else INCOMPLETE
    return FAILED if any(hole.outcome.is_failure for hole in holes) else INCOMPLETE

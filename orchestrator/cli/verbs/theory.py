"""`mergesweep theory`: compute what a study's tables say about merging, print it, and store it."""

import time

from rich.console import Console

from orchestrator.bounds.study_measurements import read_study_measurements
from orchestrator.cli.ending import print_pending
from orchestrator.cli.exit_codes import DONE
from orchestrator.progress.say import say
from orchestrator.record.folder import REPORT_FILE, StudyFolder
from orchestrator.report.theory.chapter import CHAPTER_START
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.republish import publish_theory
from orchestrator.run.write_outputs import write_outputs
from orchestrator.theory.answers import Answers, compute_answers
from orchestrator.theory.findings import findings
from orchestrator.theory.measured import evidence_of
from orchestrator.theory.schema import SCHEMAS
from orchestrator.theory.stored import store_answers, stored_answers, table_file
from orchestrator.theory.trainings import planned_trainings
from workers.artifacts.node_cache import cache_root


def show_theory(opened: OpenedStudy, *, console: Console) -> int:
    """Prints the findings of a study, stores its theory tables and its report, and tells MLflow.

    Tables that are there already and belong to the same results are not computed again. A study
    about which nothing can be computed is no failure: the findings say why.
    """
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    measured = read_study_measurements(opened.artifacts, opened.plan, cache_root=cache_root())
    answers = stored_answers(opened.folder, results=results.merges, measured=measured.ids)
    is_new = answers is None
    if answers is None:
        start_s = time.monotonic()
        with console.status("computing paired comparisons, laws, correlations and predictions"):
            evidence = evidence_of(
                opened.plan, measured, results=results.merges, diverged=committed.diverged
            )
            answers = compute_answers(
                results.merges,
                trainings=planned_trainings(committed),
                measured=evidence.bases,
                bounds=evidence.bounds,
                coefficients=evidence.coefficients,
                vectors=evidence.vectors,
                places=evidence.places,
                sizes=evidence.sizes,
                measured_rows=evidence.rows,
            )
        say(console, f"computed in {time.monotonic() - start_s:.0f} s from the result table")
    print_findings(answers, console=console)
    if is_new:
        store_answers(opened.folder, answers, results=results.merges, measured=measured.ids)
    if is_new or not _has_chapter(opened.folder):
        write_outputs(opened, results=results)
        if committed.merges:
            with console.status("sending the findings to MLflow"):
                published = publish_theory(opened, answers=answers)
            print_pending(published, opened=opened, console=console)
    say(console, f"\ntables  {table_file('*')} beside the report: {len(SCHEMAS)} files")
    say(console, f"report  {opened.folder.location(REPORT_FILE)}")
    return DONE


def _has_chapter(folder: StudyFolder) -> bool:
    """Returns whether the stored report has the chapter; a kill may have come before it."""
    page = folder.read_bytes(REPORT_FILE)
    return page is not None and CHAPTER_START.encode() in page


def print_findings(answers: Answers, *, console: Console) -> None:
    """Prints the findings, question by question."""
    last = ""
    for finding in findings(answers):
        if finding.question != last:
            say(console, f"\n{finding.question}" if last else finding.question)
            last = finding.question
        say(console, f"- {finding.text}")

"""`mergesweep run` and `resume`: make a study's missing artifacts, then tables and report."""

import os
from dataclasses import replace

from rich.console import Console

from orchestrator.cli.ending import command_line, print_end, print_pending
from orchestrator.cli.held_session import EndedEarlyError, HeldSession, held_session
from orchestrator.cli.options import require_constants
from orchestrator.costs.gpu_packing import lacks_measurement
from orchestrator.environment.mlflow_variable import unread_server
from orchestrator.progress.countdown import counting_down
from orchestrator.progress.say import say
from orchestrator.results.study_results import StudyResults
from orchestrator.run.indexing import write_index
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import publish_outputs, write_outputs

CLOSE_TRACKING_S = 1800.0
"""The longest time that the end of a run waits for MLflow to take everything. A server that
refuses connections is given up within seconds, one that never answers within two minutes."""


def run_opened(opened: OpenedStudy, *, console: Console, take_over: bool = False) -> int:
    """Makes the missing artifacts of a study and its outputs; returns the exit code.

    Args:
        opened: The study.
        console: Where to print.
        take_over: Take the study without checking whether another driver is alive.

    Raises:
        BadInputError: A search lacks the constants of its prior.
    """
    require_constants(opened)
    for warning in opened.plan.warnings:
        say(console, f"warning: {warning}")
    if opened.is_finished() and opened.is_published():
        say(console, f"study {opened.plan.study.name} is finished: nothing left to run")
        write_index(opened)
        stored = StudyResults.stored(opened.folder)  # `is_published` has compared their digests
        results = stored or StudyResults.of(opened.ledger.committed())
        return print_end(opened, results=results, console=console)
    tracking = opened.plan.study.tracking
    if unread := unread_server(os.environ, tracking=tracking, used=opened.tracking_uri):
        say(console, f"warning: {unread}")
    next_step = f"go on with: {command_line('resume', opened)}"
    try:
        if lacks_measurement(opened.plan.study, calibration=opened.calibration):
            with held_session(
                opened, console=console, take_over=take_over, publishes=False, next_step=next_step
            ) as held:
                opened = held.measure_memory()
        with held_session(
            opened, console=console, take_over=take_over, publishes=True, next_step=next_step
        ) as held:
            if not held.opened.is_finished() and held.opened.has_room():
                held.session().run(console)
            held.lease.check()
            held.opened.note_unfinished()
            held.end_if_stopped()
            results = _finish(held)
            return print_end(held.opened, results=results, console=console)
    except EndedEarlyError as end:
        return end.exit_code


def _finish(held: HeldSession) -> StudyResults:
    """Writes tables and report, and sends the rest to MLflow; returns the results."""
    opened, tracker = held.opened, held.tracker
    assert tracker is not None, "a run publishes"
    committed = opened.ledger.committed()
    work = "writing tables, report and the last runs to MLflow"
    with counting_down(held.console, work=work) as show_pending:
        results = StudyResults.of(committed)
        left_out = publish_outputs(
            committed,
            results=results,
            make_page=lambda drawn: write_outputs(opened, results=results, drawn=drawn),
            publish=tracker.publish,
        )
        published = tracker.close(CLOSE_TRACKING_S, show_pending=show_pending)
        published = replace(published, left_out=left_out)
        opened.note_published(published)
        if published.num_pending:
            write_outputs(opened, results=results)  # the report says how many MLflow lacks
    print_pending(published, opened=opened, console=held.console)
    return results

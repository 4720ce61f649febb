"""Publishes a study to MLflow from its store alone."""

from collections.abc import Callable
from dataclasses import replace

from orchestrator.plan.plan import plan_digest
from orchestrator.record.folder import TRACKING_FILE
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import publish_outputs, report_or_fault
from orchestrator.theory.answers import Answers
from orchestrator.theory.stored import stored_answers
from orchestrator.tracking.database import publisher_log
from orchestrator.tracking.study_runs import axis_views
from orchestrator.tracking.theory_runs import theory_runs
from orchestrator.tracking.tracker import PublishReport, Tracker
from orchestrator.tracking.views import experiment_tags

CLOSE_REPUBLISHING_S = 3600.0
"""Time for publishing, which is all that the command does: an MLflow run takes 15 ms on SQLite and
longer on slow servers. A server that refuses connections ends the command within seconds, one that
never answers within two minutes."""


def start_tracker(opened: OpenedStudy, *, rebuild: bool = False) -> Tracker:
    """Starts a tracker for the study's MLflow."""
    return Tracker.start(
        uri=opened.tracking_uri,
        study=opened.plan.study.name,
        experiment_tags={
            **experiment_tags(axis_views(opened.plan)),
            "store": opened.store_url,
            "plan": plan_digest(opened.plan),
        },
        log_path=publisher_log(opened.tracking_uri),
        rebuild=rebuild,
    )


def republish(
    opened: OpenedStudy,
    *,
    rebuild: bool,
    timeout_s: float = CLOSE_REPUBLISHING_S,
    show_pending: Callable[[int], None] | None = None,
) -> PublishReport:
    """Publishes the MLflow runs of all committed artifacts of a study.

    Args:
        opened: The study. Its store is only read, except that the note of published MLflow runs is
            written.
        rebuild: Whether to delete the study's MLflow runs first and write all of them again.
            Otherwise MLflow runs with equal content are left as they are.
        timeout_s: Time limit for a server that answers.
        show_pending: Is called again and again, with the number of MLflow runs left to send.

    Returns:
        The numbers of MLflow runs that were written or not; the same call sends pending ones again.

    Raises:
        StoreError: The store fails while it is read or the note is written.
    """
    # Written first: if the process is killed after a deletion, the study must not count as
    # published.
    opened.folder.write_bytes(TRACKING_FILE, b"{}")
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    tracker = start_tracker(opened, rebuild=rebuild)
    left_out = publish_outputs(
        committed,
        results=results,
        make_page=lambda drawn: report_or_fault(opened, results=results, drawn=drawn),
        publish=tracker.publish,
        answers=stored_answers(opened.folder, results=results.merges),
    )
    published = tracker.close(timeout_s, show_pending=show_pending)
    report = replace(published, left_out=left_out)
    opened.note_published(report)
    return report


def publish_theory(
    opened: OpenedStudy, *, answers: Answers, timeout_s: float = CLOSE_REPUBLISHING_S
) -> PublishReport:
    """Publishes the MLflow runs of a study's theory tables, and no others.

    Args:
        opened: The study; its store is only read.
        answers: The theory tables of its committed artifacts.
        timeout_s: Time limit for a server that answers.
    """
    tracker = start_tracker(opened)
    for run in theory_runs(opened.ledger.committed(), answers=answers):
        tracker.publish(run)
    return tracker.close(timeout_s)

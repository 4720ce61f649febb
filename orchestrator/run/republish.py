"""Publishes a study to MLflow from its store alone: into an empty server, or all anew."""

from orchestrator.plan.plan import plan_digest
from orchestrator.record.folder import TRACKING_FILE
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.write_outputs import publish_outputs, report_page
from orchestrator.tracking.database import publisher_log
from orchestrator.tracking.study_runs import axis_views
from orchestrator.tracking.tracker import PublishReport, Tracker
from orchestrator.tracking.views import experiment_tags

CLOSE_REPUBLISHING_S = 3600.0
"""Publishing is all that the command does: 15 ms a run on SQLite, and a slow server may be slow.
A server that does not answer is given up within seconds all the same."""


def start_tracker(opened: OpenedStudy, *, rebuild: bool = False) -> Tracker:
    """Starts publishing to where the study says."""
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
    opened: OpenedStudy, *, rebuild: bool, timeout_s: float = CLOSE_REPUBLISHING_S
) -> PublishReport:
    """Publishes every run of a study that can be told from what is committed.

    Args:
        opened: The study; its store is only read, but for the note that MLflow has it.
        rebuild: Deletes the runs that MLflow has of the study and writes all of them anew;
            otherwise a run that is there already, with the same content, is left alone.
        timeout_s: How long a server that answers may take.

    Returns:
        What became of the runs; pending ones are not lost, the same call sends them again.

    Raises:
        StoreError: The store fails while it is read or the note is written.
    """
    # First of all: cut off after a deletion, the study must not pass for published.
    opened.folder.write_bytes(TRACKING_FILE, b"{}")
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    page = report_page(opened, results=results)
    tracker = start_tracker(opened, rebuild=rebuild)
    publish_outputs(committed, results=results, page=page, publish=tracker.publish)
    report = tracker.close(timeout_s)
    opened.note_published(report)
    return report

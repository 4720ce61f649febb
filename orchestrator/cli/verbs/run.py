"""What `mergesweep run` and `resume` do around a session: lease, signals, tables, how it ended."""

import os
import sys
from dataclasses import dataclass

from rich.console import Console

from orchestrator.cli.ending import command_line, print_end
from orchestrator.cli.exit_codes import FAILED, INTERRUPTED
from orchestrator.lease.lease import Lease, LeaseError
from orchestrator.progress.say import say
from orchestrator.record.folder import StudyDamagedError
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.republish import start_tracker
from orchestrator.run.signals import stop_on_signals
from orchestrator.run.write_outputs import publish_outputs, write_outputs
from orchestrator.tracking.tracker import PublishReport, Tracker
from workers.store.opening import supports_conditional_put
from workers.store.protocol import StoreError

CLOSE_TRACKING_S = 300.0
"""At the end everything is sent; a server that does not answer is given up within seconds."""
CLOSE_STOPPED_TRACKING_S = 5.0
"""After Ctrl-C nobody wants to wait: the next run sends what is left."""


def run_opened(opened: OpenedStudy, *, console: Console, take_over: bool = False) -> int:
    """Runs what is left of a study and prints how it ended; returns the exit code.

    Args:
        opened: The study.
        console: Where to print.
        take_over: Do not look whether another driver still runs it.
    """
    for warning in opened.plan.warnings:
        say(console, f"warning: {warning}")
    if opened.is_finished() and opened.is_published():
        say(console, f"study {opened.plan.study.name} is finished: nothing left to run")
        results = StudyResults.of(opened.ledger.committed())
        return print_end(opened, results=results, console=console)
    try:
        with acquire(opened, console=console, take_over=take_over) as lease:
            # Anew: who held the study until now may have committed more.
            fresh = open_study(opened.plan.study, text=opened.text, recorded=opened.plan.sources)
            return _Run(opened=fresh, lease=lease, console=console).run()
    except (LeaseError, StoreError, StudyDamagedError) as error:
        say(console, f"error: {error}")
        return FAILED


def acquire(opened: OpenedStudy, *, console: Console, take_over: bool) -> Lease:
    """Takes the study's lease, and warns of a store that cannot tell who was first.

    Raises:
        LeaseError: Another driver runs the study.
        StoreError: The store failed.
    """
    return Lease.acquire(
        opened.artifacts.store,
        opened.plan.study.name,
        take_over=take_over,
        is_weak=_warn_of_weak_store(opened, console=console),
        say=lambda text: say(console, text),
    )


def _warn_of_weak_store(opened: OpenedStudy, *, console: Console) -> bool:
    is_weak = not supports_conditional_put(opened.artifacts.store)
    if is_weak:
        say(
            console,
            f"warning: {opened.store_url} ignores conditional writes, so it cannot tell which of "
            "two writers was first; only the lease keeps a second driver away: never use "
            "--take-over there while another one may live",
        )
    return is_weak


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One driver's run of a study that it holds."""

    opened: OpenedStudy
    lease: Lease
    console: Console

    def run(self) -> int:
        # Late: Ray takes more than a second to load, and a finished study needs none of it.
        from orchestrator.cluster.ray_cluster import RayCluster
        from orchestrator.run.session import Session
        from orchestrator.run.stages import PreparationError

        opened = self.opened
        opened.folder.write_plan(opened.plan, study_text=opened.text)
        tracker = start_tracker(opened)
        with stop_on_signals() as stopping:
            self.lease.start(lambda _: stopping.set())
            try:
                if not opened.is_finished() and opened.has_room():
                    Session(
                        opened=opened,
                        tracker=tracker,
                        stopping=stopping,
                        cluster=RayCluster(),
                        on_cluster_lost=lambda reason: self._abandon(reason, tracker=tracker),
                        write_progress=self.lease.write_progress,
                    ).run(self.console)
                self.lease.check()
                opened.note_unfinished()
                if not stopping.is_set():
                    results = self._finish(tracker)
                    return print_end(opened, results=results, console=self.console)
            except (PreparationError, StoreError, LeaseError, ConnectionError) as error:
                return self._end_early(f"error: {error}", tracker=tracker, code=FAILED)
            kept = "stopped; everything that was whole is kept"
            return self._end_early(kept, tracker=tracker, code=INTERRUPTED)

    def _finish(self, tracker: Tracker) -> StudyResults:
        opened = self.opened
        committed = opened.ledger.committed()
        with self.console.status("writing tables, report and the last runs to MLflow"):
            results = StudyResults.of(committed)
            page = write_outputs(opened, results=results)
            publish_outputs(committed, results=results, page=page, publish=tracker.publish)
            published = tracker.close(CLOSE_TRACKING_S)
            opened.note_published(published)
            if published.num_pending:
                write_outputs(opened, results=results)  # again: the report says what MLflow lacks
        print_pending(published, opened=opened, console=self.console)
        return results

    def _end_early(self, text: str, *, tracker: Tracker, code: int) -> int:
        tracker.close(CLOSE_STOPPED_TRACKING_S)
        say(self.console, text)
        say(self.console, f"go on with: {command_line('resume', self.opened)}")
        return code

    def _abandon(self, reason: str, *, tracker: Tracker) -> None:
        """Ends the process on the spot: the thread that runs Tune hangs once the head is gone."""
        self._end_early(f"error: {reason}; what is whole is kept", tracker=tracker, code=FAILED)
        self.lease.release()
        sys.stdout.flush()
        os._exit(FAILED)


def print_pending(published: PublishReport, *, opened: OpenedStudy, console: Console) -> None:
    """Says which runs MLflow lacks, if any, and how to send them."""
    if published.num_pending:
        say(
            console,
            f"MLflow at {opened.tracking_uri} lacks {published.num_pending} runs "
            f"({published.error}); nothing is lost, this sends them: "
            f"{command_line('track', opened)}",
        )

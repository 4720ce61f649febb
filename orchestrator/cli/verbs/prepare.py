"""What `mergesweep prepare` does: the base and the images of a study, and nothing else."""

import os
import sys

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cli.verbs.run import acquire
from orchestrator.lease.lease import Lease, LeaseError
from orchestrator.progress.say import say
from orchestrator.record.folder import StudyDamagedError
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.signals import stop_on_signals
from workers.store.protocol import StoreError

GO_ON = "the same command goes on from there"


def prepare_opened(opened: OpenedStudy, *, console: Console, take_over: bool = False) -> int:
    """Makes what is missing of a study's base and images; returns the exit code.

    Args:
        opened: The study.
        console: Where to print.
        take_over: Do not look whether another driver still runs it.
    """
    for warning in opened.plan.warnings:
        say(console, f"warning: {warning}")
    name = opened.plan.study.name
    if opened.is_prepared():
        say(console, f"the base and the images of study {name} are prepared: nothing is left")
        return DONE
    try:
        with acquire(opened, console=console, take_over=take_over) as lease:
            # Anew: who held the study until now may have committed more.
            fresh = open_study(opened.plan.study, text=opened.text)
            # With its plan in the store, the images count as used.
            fresh.folder.write_plan(fresh.plan, study_text=fresh.text)
            return _prepare(fresh, lease=lease, console=console)
    except (LeaseError, StoreError, StudyDamagedError) as error:
        say(console, f"error: {error}")
        return FAILED


def _prepare(opened: OpenedStudy, *, lease: Lease, console: Console) -> int:
    # Late: Ray takes more than a second to load.
    from orchestrator.cluster.ray_cluster import RayCluster
    from orchestrator.run.session import Session
    from orchestrator.run.stages import PreparationError

    def abandon(reason: str) -> None:
        say(console, f"error: {reason}; finished images are kept; {GO_ON}")
        lease.release()
        sys.stdout.flush()
        os._exit(FAILED)  # calls to Ray hang once the head is gone

    with stop_on_signals() as stopping:
        lease.start(lambda _: stopping.set())
        try:
            Session(
                opened=opened,
                tracker=None,
                stopping=stopping,
                cluster=RayCluster(),
                on_cluster_lost=abandon,
                write_progress=lease.write_progress,
            ).prepare(console)
            lease.check()
        except (PreparationError, StoreError, LeaseError, ConnectionError) as error:
            say(console, f"error: {error}")
            say(console, f"finished images are kept; {GO_ON}")
            return FAILED
        if stopping.is_set():
            say(console, f"stopped; finished images are kept; {GO_ON}")
            return INTERRUPTED
    say(console, f"the base and the images of study {opened.plan.study.name} are prepared")
    return DONE

"""Runs a study as `mergesweep run` does, with workers that compute nothing."""

import sys
import threading

from rich.console import Console

from orchestrator.cluster.ray_cluster import RayCluster
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.republish import start_tracker
from orchestrator.run.session import Session
from orchestrator.tracking.tracker import Tracker


def run_with(worker: str, *, opened: OpenedStudy) -> Tracker:
    """Makes all artifacts of a study; returns its tracker, which still publishes.

    Args:
        worker: The class that runs in worker processes, `module:Class`. Ray's workers find the
            modules of this folder, because they search the directory of the driver's script.
        opened: The study, which nobody else runs.
    """
    opened.folder.write_plan(opened.plan, study_text=opened.text)
    tracker = start_tracker(opened)
    session = Session(
        opened=opened,
        tracker=tracker,
        stopping=threading.Event(),
        on_cluster_lost=sys.exit,
        cluster=RayCluster(worker=worker),
    )
    session.run(Console(file=sys.stderr))
    return tracker

"""`mergesweep ui`: serve MLflow's pages and print links to the study's runs."""

import os
import signal
import subprocess
from collections.abc import Iterator

from rich.console import Console

from orchestrator.cli.exit_codes import DONE
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy
from orchestrator.tracking.study_runs import axis_views
from orchestrator.tracking.ui import UI_ENVIRONMENT, find_experiment, ui_command
from orchestrator.tracking.views import view_fragment


def serve_ui(opened: OpenedStudy, *, port: int, console: Console) -> int:
    """Prints links to the study's runs, then serves MLflow's pages until Ctrl-C.

    If the study's tracking address is a server, only the links are printed.
    """
    uri = opened.tracking_uri
    is_running = uri.startswith(("http://", "https://"))
    address = uri.rstrip("/") if is_running else f"http://127.0.0.1:{port}"
    for line in _page_links(opened, address=address):
        say(console, line)
    if is_running:
        return DONE
    say(console, "Press Ctrl-C to end")
    command = ui_command(uri, port=port)
    server = subprocess.Popen(command, env={**os.environ, **UI_ENVIRONMENT})  # noqa: S603 our own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server gets it too and ends itself
    return server.wait()


def _page_links(opened: OpenedStudy, *, address: str) -> Iterator[str]:
    study = opened.plan.study.name
    experiment = find_experiment(opened.tracking_uri, study=study)
    if experiment is None:
        yield f"{address} (no runs of {study} there yet)"
        return
    runs = f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    yield f"all runs of {study}: {runs}"
    for view in axis_views(opened.plan):
        fragment = view_fragment(view.axis, experiment_id=experiment)
        yield f"accuracy against {view.axis}, by method: {address}/{fragment}"

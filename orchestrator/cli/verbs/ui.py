"""`mergesweep ui`: serve MLflow's pages and print links to the study's runs."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cli.options import BadInputError
from orchestrator.cli.signals import interrupting_signals
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy
from orchestrator.tracking.study_runs import axis_views
from orchestrator.tracking.ui import UI_ENVIRONMENT, find_experiment, ui_command
from orchestrator.tracking.views import view_fragment

_END_WAIT_S = 5.0
"""The time in which MLflow's server must end after SIGTERM."""


def serve_ui(opened: OpenedStudy, *, port: int, console: Console) -> int:
    """Prints links to the study's runs, then serves MLflow's pages until Ctrl-C.

    If the study's tracking address is a server, only the links are printed.

    Raises:
        BadInputError: Another program listens on the port.
    """
    uri = opened.tracking_uri
    is_running = uri.startswith(("http://", "https://"))
    if not is_running and not _is_free(port):
        raise BadInputError(f"port {port} is in use on this machine; choose another with --port")
    address = uri.rstrip("/") if is_running else f"http://127.0.0.1:{port}"
    for line in _page_links(opened, address=address):
        say(console, line)
    if is_running:
        return DONE
    say(console, "Press Ctrl-C to end")
    try:
        with interrupting_signals(), _running(ui_command(uri, port=port)) as server:
            return FAILED if server.wait() else DONE
    except KeyboardInterrupt:
        return INTERRUPTED


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server for the length of a `with` block, in a session that ends as a whole."""
    environment = {**os.environ, **UI_ENVIRONMENT}
    server = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 our own
    try:
        yield server
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with suppress(subprocess.TimeoutExpired):
                server.wait(_END_WAIT_S)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


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

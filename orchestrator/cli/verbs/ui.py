"""`mergesweep ui`: serve MLflow's pages and print links to the study's runs."""

import threading
from collections.abc import Iterator

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cli.options import BadInputError
from orchestrator.cli.signals import stopping_signals
from orchestrator.progress.say import say
from orchestrator.run.opened import OpenedStudy
from orchestrator.tracking.study_runs import axis_views
from orchestrator.tracking.ui import (
    LOOK_EVERY_S,
    PortError,
    UiError,
    check_port,
    find_experiment,
    readable,
    ui_server,
)
from orchestrator.tracking.views import TABLE_VIEWS, table_fragment, view_fragment
from workers.store.private_directory import user_directory


def serve_ui(opened: OpenedStudy, *, port: int, console: Console) -> int:
    """Serves MLflow's pages until Ctrl-C, and prints links to the study's runs.

    If the study's tracking address is a server, only the links are printed.

    Returns:
        The exit code: 1 if there are no pages to open.

    Raises:
        BadInputError: No server can listen on the port.
    """
    uri = opened.tracking_uri
    try:
        if uri.startswith(("http://", "https://")):
            _print_links(opened, uri=uri, address=uri.rstrip("/"), console=console)
            return DONE
        return _serve(opened, port=port, console=console)
    except PortError as error:
        raise BadInputError(str(error)) from error
    except UiError as error:
        say(console, f"error: {error}")
        return FAILED


def _serve(opened: OpenedStudy, *, port: int, console: Console) -> int:
    """Serves the pages of a database.

    Raises:
        UiError: They cannot be served.
    """
    check_port(port)
    log = user_directory() / f"mlflow-ui-{port}.log"
    with readable(opened.tracking_uri) as uri:
        if uri != opened.tracking_uri:
            say(console, f"{opened.tracking_uri} cannot be written: this is a copy, as of now")
        say(console, "MLflow's server takes some seconds to start; Ctrl-C ends it")
        stopping = threading.Event()
        with (
            stopping_signals(stopping.set),
            ui_server(uri, port=port, log=log, stopping=stopping) as server,
        ):
            if not stopping.is_set():
                _print_links(opened, uri=uri, address=f"http://127.0.0.1:{port}", console=console)
            while not stopping.wait(LOOK_EVERY_S):
                if server.poll() is not None:
                    raise UiError(f"MLflow's server has ended by itself; its log is in {log}")
    return INTERRUPTED


def _print_links(opened: OpenedStudy, *, uri: str, address: str, console: Console) -> None:
    for line in _page_links(opened, uri=uri, address=address):
        say(console, line)


def _page_links(opened: OpenedStudy, *, uri: str, address: str) -> Iterator[str]:
    study = opened.plan.study.name
    experiment = find_experiment(uri, study=study)
    if experiment is None:
        yield f"{address} (no runs of {study} there yet)"
        return
    runs = f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    yield f"all runs of {study}: {runs}"
    for table in TABLE_VIEWS:
        yield f"{table.title}: {address}/{table_fragment(table, experiment_id=experiment)}"
    for view in axis_views(opened.plan):
        fragment = view_fragment(view.axis, experiment_id=experiment)
        yield f"accuracy against {view.axis}, by method: {address}/{fragment}"

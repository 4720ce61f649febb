"""Opens MLflow's own pages on a study's MLflow runs."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from orchestrator.tracking.database import database_path, database_uri
from orchestrator.tracking.figures_folder import follow_move
from workers.store.scratch import scratch_directory

UI_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Otherwise the server starts seven job runners of 220 MB, which outlive it by a minute.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Variables to add to the environment of `ui_command`."""
LOOK_EVERY_S = 0.3
_END_WAIT_S = 10.0
_NUM_PORTS_TRIED = 100
_NOT_FOUND = 404
_WANTS_PASSWORD = {401, 403}
_OTHER_RELEASE = "out-of-date database schema"
_FAULT = re.compile(r"(?:[\w.]+(?:Error|Exception|Warning): |.*\bERROR:? +)(?P<text>.+)")
"""A line of the server's log that names an error."""


class UiError(Exception):
    """MLflow's pages cannot be served or reached; the message says why and what to do."""


class PortError(UiError):
    """No server can listen on the port that the user named."""


def ui_command(uri: str, *, port: int = 5000) -> list[str]:
    """Returns the command that serves the pages of a database to this machine only.

    Raises:
        ValueError: The URI is the address of a running server.
    """
    if uri.startswith(("http://", "https://")):
        raise ValueError(f"{uri} is a running MLflow server: open it in a browser")
    listen = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-P", "-m", "mlflow", "server", "--backend-store-uri", uri, *listen]


def check_port(port: int) -> None:
    """Checks that a server can listen on a port of this machine.

    Raises:
        PortError: Another program has the port, or this user may not use it.
    """
    try:
        _listen_on(port)
    except OSError as error:
        free = _free_port_above(port)
        raise PortError(
            f"port {port} of this machine cannot be used ({os.strerror(error.errno or 0)}); choose "
            f"another one, such as --port {free}"
        ) from error


@contextmanager
def readable(uri: str) -> Iterator[str]:
    """Yields the URI of a database that a server can open, which it does by writing to it.

    It is the database itself, or a copy, for the length of a `with` block, of a database in a file
    or folder that this user cannot write to.

    Raises:
        UiError: The database does not exist and cannot be made.
    """
    path = database_path(uri)
    if path is None or _can_write(path):
        if path is not None and path.is_file():
            follow_move(path, beside=path)
        yield uri
        return
    if not path.is_file():
        raise UiError(f"there is no MLflow database at {path}, and this user cannot make one there")
    with scratch_directory("ui") as folder:
        for name in (path.name, f"{path.name}-wal"):  # the second has the last writes, if any
            with suppress(FileNotFoundError):
                shutil.copyfile(path.with_name(name), folder / name)
        follow_move(folder / path.name, beside=path)
        yield database_uri(folder / path.name)


@contextmanager
def ui_server(
    uri: str, *, port: int, log: Path, stopping: threading.Event
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server of MLflow's pages for the length of a `with` block, which begins once it works.

    Args:
        uri: The URI of the database.
        port: The port on this machine.
        log: The file for the server's output.
        stopping: The block begins at once when it is set.

    Raises:
        UiError: The server ended before it answered; the message has the reason and the log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 our own
            ui_command(uri, port=port),
            env={**os.environ, **UI_ENVIRONMENT},
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for this process, which ends all of the server
        )
    try:
        while not _answers(port) and not stopping.wait(LOOK_EVERY_S):
            if process.poll() is not None:
                raise UiError(
                    f"MLflow's server did not start: {_fault_in(log)}; its log is in {log}"
                )
        yield process
    finally:
        _end(process)


def find_experiment(uri: str, *, study: str) -> str | None:
    """Returns the id of a study's MLflow experiment, for links; None if there is none yet.

    Reads the database or asks the server, without loading mlflow. Returns None as well if the
    server asks for a password.

    Raises:
        UiError: The server does not answer, or is not MLflow.
    """
    path = database_path(uri)
    try:
        return _ask_server(uri, study=study) if path is None else _ask_file(path, study=study)
    except sqlite3.Error:
        return None
    except HTTPError as error:
        error.close()
        if error.code == _NOT_FOUND or error.code in _WANTS_PASSWORD:
            return None
        raise UiError(f"the MLflow server at {uri} failed: {error}") from error
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        raise UiError(f"no MLflow server answers at {uri} ({error})") from error


def _ask_file(path: Path, *, study: str) -> str | None:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        query = "SELECT experiment_id FROM experiments WHERE name = ?"
        row = connection.execute(query, [study]).fetchone()
    return str(row[0]) if row else None


def _ask_server(uri: str, *, study: str) -> str | None:
    path = "/api/2.0/mlflow/experiments/get-by-name?"
    address = uri.rstrip("/") + path + urlencode({"experiment_name": study})
    if not address.startswith(("http://", "https://")):
        return None
    with urlopen(address, timeout=5) as reply:  # noqa: S310 the scheme was checked
        experiment_id: str = json.load(reply)["experiment"]["experiment_id"]
    return experiment_id


def _can_write(path: Path) -> bool:
    """Returns whether this user may write to a database's file and to the folder around it."""
    existing = next(each for each in path.absolute().parents if each.exists())
    return os.access(existing, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


def _listen_on(port: int) -> None:
    socket.create_server(("127.0.0.1", port)).close()


def _free_port_above(port: int) -> int:
    start = max(port, 1024)
    for number in range(start + 1, min(start + _NUM_PORTS_TRIED, 65536)):
        with suppress(OSError):
            _listen_on(number)
            return number
    return 5000


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


def _fault_in(log: Path) -> str:
    """Returns the last error in a server's log, or its last line."""
    lines: Sequence[str] = log.read_text(encoding="utf-8", errors="replace").split("\n")
    if any(_OTHER_RELEASE in line for line in lines):
        return (
            "another release of MLflow has written the database: use that release, or upgrade an "
            "older database with `mlflow db upgrade`"
        )
    found = [match["text"] for line in lines if (match := _FAULT.match(line))]
    return (found or [line for line in lines if line.strip()] or ["it printed nothing"])[-1].strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server with all of its processes."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_WAIT_S)
            return

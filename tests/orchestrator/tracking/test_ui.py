import os
import socket
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.tracking import ui
from orchestrator.tracking.ui import UiError, check_port, find_experiment, readable, ui_server

FAILING = """
import sys
print("Traceback (most recent call last):", file=sys.stderr)
print("  File x.py, line 1", file=sys.stderr)
print("x.exc.DatabaseError: (sqlite3.DatabaseError) file is not a database", file=sys.stderr)
print("(Background on this error at: x)", file=sys.stderr)
sys.exit(1)
"""
ANSWERING = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def free_port() -> int:
    """Returns a port that no program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Makes a database with one experiment, whose last write is not in the file itself."""
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT)")
        connection.execute("INSERT INTO experiments VALUES (7, 'demo')")
        connection.commit()
        copies = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    for name, content in copies.items():  # closing would have moved the write into the file
        (tmp_path / name).write_bytes(content)
    return path


def test_taken_port_is_refused_with_a_free_one() -> None:
    """MLflow's server would print an error among its messages and end with 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UiError, match=rf"port {port} .* such as --port \d+"):
            check_port(port)
    check_port(port)


def test_database_of_ones_own_is_served_as_it_is(database: Path) -> None:
    """And so is a database that does not exist yet, and one on a server."""
    for uri in (f"sqlite:///{database}", f"sqlite:///{database}-new", "postgresql://db/mlflow"):
        with readable(uri) as served:
            assert served == uri


def test_database_that_cannot_be_written_is_copied_with_its_last_writes(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server opens a database by writing to it; the copy is gone at the end."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with readable(f"sqlite:///{database}") as served:
        copy = Path(served.removeprefix("sqlite:///"))
        assert copy != database
        assert find_experiment(served, study="demo") == "7"
    assert not copy.exists()
    with (
        pytest.raises(UiError, match="there is no MLflow database at"),
        readable(f"sqlite:///{database}-gone"),
    ):
        pass


def test_server_that_does_not_start_is_explained_from_its_log(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the last error, and not the last line."""
    monkeypatch.setattr(ui, "ui_command", lambda *_, **__: [sys.executable, "-c", FAILING])
    log, never = tmp_path / "log", threading.Event()
    with (
        pytest.raises(UiError, match=r"not start: \(sqlite3.DatabaseError\) file is not.*/log$"),
        ui_server("sqlite:///x", port=free_port, log=log, stopping=never),
    ):
        pass


def test_server_ends_with_the_block(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block begins when the server answers."""
    command = [sys.executable, "-c", ANSWERING, str(free_port)]
    monkeypatch.setattr(ui, "ui_command", lambda *_, **__: command)
    never = threading.Event()
    with ui_server("sqlite:///x", port=free_port, log=tmp_path / "log", stopping=never) as server:
        assert server.poll() is None
    assert server.poll() is not None
    check_port(free_port)


def test_database_of_another_release_is_explained(tmp_path: Path) -> None:
    """MLflow advises to upgrade, which does not help an older MLflow."""
    log = tmp_path / "log"
    log.write_text("mlflow.exceptions.MlflowException: Detected out-of-date database schema (x).")
    assert "another release of MLflow" in ui._fault_in(log)
    log.write_text("")
    assert ui._fault_in(log) == "it printed nothing"


def test_server_that_does_not_answer_is_told_from_one_without_the_study(free_port: int) -> None:
    """No answer is an error; a study that was never run is none."""
    with pytest.raises(UiError, match=f"no MLflow server answers at http://127.0.0.1:{free_port}"):
        find_experiment(f"http://127.0.0.1:{free_port}", study="demo")

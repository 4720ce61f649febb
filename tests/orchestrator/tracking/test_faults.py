"""Faults of a real MLflow server and of its database, while a study publishes."""

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import pytest
from waiting import wait_until

from orchestrator.tracking.mlflow_run import MetricPoint, MlflowRun
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.ui import UI_ENVIRONMENT, ui_command

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parents[2] / "support"
NUM_POINTS = 5
DELAY_S = 0.5
"""Delay of each answer through the slow proxy; slow servers have ten times as much."""
PUBLISH_S = 0.01
"""The longest time that queueing an MLflow run may take."""


def make_run(number: int, **changes: object) -> MlflowRun:
    fields = {
        "key": f"expert/{number}",
        "kind": "expert",
        "name": f"expert {number}",
        "params": {"lr": "0.1"},
        "metrics": [
            MetricPoint(name="loss", value=1 / (step + 1), step=step, timestamp_ms=1000 + step)
            for step in range(NUM_POINTS)
        ],
        "start_ms": 1,
        "end_ms": 2,
        "status": "FINISHED",
        **changes,
    }
    return MlflowRun(**fields)  # type: ignore[arg-type]


def start(uri: str, tmp_path: Path, *, study: str = "demo") -> Tracker:
    return Tracker.start(uri=uri, study=study, experiment_tags={}, log_path=tmp_path / "mlflow.log")


def points_by_key(database: Path, *, study: str) -> list[tuple[str, str, int]]:
    """Returns key, status and number of points of each MLflow run of a study, by key."""
    query = """
        select tags.value, runs.status,
               (select count(*) from metrics where metrics.run_uuid = runs.run_uuid)
        from runs join tags using (run_uuid) join experiments using (experiment_id)
        where tags.key = 'mergesweep.key' and runs.lifecycle_stage = 'active'
              and experiments.name = ?
        order by tags.value
    """
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        return connection.execute(query, [study]).fetchall()


def whole(numbers: range) -> list[tuple[str, str, int]]:
    """Returns the expected value of `points_by_key`: each MLflow run and point once."""
    return sorted((f"expert/{number}", "FINISHED", NUM_POINTS) for number in numbers)


class Server:
    """A real MLflow server on SQLite, with artifacts in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "server.db"
        self.artifacts = folder / "mlartifacts"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts or restarts the server and waits until it answers."""
        self._process = subprocess.Popen(
            ui_command(f"sqlite:///{self.database}", port=self.port),
            env=os.environ | UI_ENVIRONMENT,
            cwd=self.database.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, timeout_s=120)

    def kill(self) -> None:
        """Kills the server and its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urlopen(f"{self.uri}/health", timeout=5):
            return True
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs one server for the module, because starting it takes ten seconds or more."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


class SlowProxy:
    """A proxy that passes TCP connections on and delays each answer."""

    def __init__(self, port: int, *, delay_s: float) -> None:
        self._target = ("127.0.0.1", port)
        self._delay_s = delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accepts no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(self._target)
                asked = threading.Event()
                for pump in (self._pass_questions, self._pass_answers):
                    arguments = (client, upstream, asked)
                    threading.Thread(target=pump, args=arguments, daemon=True).start()

    def _pass_questions(
        self, client: socket.socket, upstream: socket.socket, asked: threading.Event
    ) -> None:
        with contextlib.suppress(OSError), client, upstream:
            while content := client.recv(1 << 16):
                asked.set()
                upstream.sendall(content)

    def _pass_answers(
        self, client: socket.socket, upstream: socket.socket, asked: threading.Event
    ) -> None:
        with contextlib.suppress(OSError), client, upstream:
            while content := upstream.recv(1 << 16):
                if asked.is_set():
                    asked.clear()
                    time.sleep(self._delay_s)
                client.sendall(content)


def test_server_killed_in_the_middle_gets_every_run_once(server: Server, tmp_path: Path) -> None:
    """The server is killed between the calls for an MLflow run, then restarted."""
    tracker = start(server.uri, tmp_path, study="killed")
    for number in range(60):
        tracker.publish(make_run(number))
    wait_until(lambda: tracker.num_pending() <= 45)
    server.kill()
    assert tracker.num_pending() > 0
    wait_until(lambda: tracker.state().startswith("unreachable"))
    for number in range(60, 80):
        tracker.publish(make_run(number))
    server.start()
    wait_until(lambda: tracker.num_pending() == 0)
    report = tracker.close(60)
    assert (report.num_published + report.num_unchanged, report.error) == (80, None)
    assert points_by_key(server.database, study="killed") == whole(range(80))


def test_slow_server_delays_neither_driver_nor_closing(server: Server, tmp_path: Path) -> None:
    """Closing ends in time, and the next session publishes the rest."""
    proxy = SlowProxy(server.port, delay_s=DELAY_S)
    tracker = start(proxy.uri, tmp_path, study="slow")
    waits_s = []
    for number in range(40):
        before_s = time.perf_counter()
        tracker.publish(make_run(number))
        waits_s.append(time.perf_counter() - before_s)
        time.sleep(0.01)
    assert sorted(waits_s)[-2] < PUBLISH_S  # the machine itself may stall one of them
    wait_until(lambda: tracker.num_pending() < 40)
    assert tracker.state() == "ok"
    before_s = time.monotonic()
    report = tracker.close(2.5 * DELAY_S)
    assert time.monotonic() - before_s < 2.5 * DELAY_S + 1
    assert 0 < report.num_published < 10
    assert report.num_pending == 40 - report.num_published
    assert report.error is not None
    assert "too short" in report.error
    proxy.close()
    again = start(server.uri, tmp_path, study="slow")
    for number in range(40):
        again.publish(make_run(number))
    assert again.close(60).num_pending == 0
    assert points_by_key(server.database, study="slow") == whole(range(40))


def test_artifacts_that_cannot_be_stored_delay_only_their_run(
    server: Server, tmp_path: Path
) -> None:
    """A file in place of the server's artifact directory stops root as well."""
    shutil.rmtree(server.artifacts, ignore_errors=True)
    server.artifacts.write_bytes(b"in the way")
    report_run = make_run(0, key="report", artifacts={"report.html": b"page"})
    tracker = start(server.uri, tmp_path, study="artifacts")
    tracker.publish(report_run)
    for number in range(5):
        tracker.publish(make_run(number))
    wait_until(lambda: tracker.num_pending() == 1)
    assert tracker.state().startswith("refused: report: ")
    report = tracker.close(60)
    assert (report.num_published, report.num_pending) == (5, 1)
    assert report.error is not None
    assert "refused: report: " in report.error
    server.artifacts.unlink()
    again = start(server.uri, tmp_path, study="artifacts")
    again.publish(report_run)
    assert again.close(60).num_published == 1
    held = points_by_key(server.database, study="artifacts")
    assert held == [*whole(range(5)), ("report", "FINISHED", NUM_POINTS)]
    assert [path.read_bytes() for path in server.artifacts.rglob("report.html")] == [b"page"]


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Holds an exclusive transaction in another process."""
    script = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
connection.execute("begin exclusive")
print("locked", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.stdin.close()


def test_locked_database_delays_runs_and_loses_none(tmp_path: Path) -> None:
    """Another process writes for seconds, as `mlflow gc` does."""
    database = tmp_path / "mlflow.db"
    tracker = start(f"sqlite:///{database}", tmp_path)
    tracker.publish(make_run(0))
    wait_until(lambda: tracker.num_pending() == 0)
    with locked(database):
        for number in range(1, 6):
            tracker.publish(make_run(number))
        time.sleep(3)
        assert tracker.num_pending() == 5
    wait_until(lambda: tracker.num_pending() == 0)
    assert tracker.close(60).error is None
    assert points_by_key(database, study="demo") == whole(range(6))


def test_resumed_driver_and_the_publisher_of_the_killed_one_write_each_run_once(
    tmp_path: Path,
) -> None:
    """The new publisher waits for the old one, which outlives its driver."""
    script = f"""
import os, signal, sys, time
sys.path[:0] = {[str(Path(__file__).parent), str(SUPPORT)]!r}
from pathlib import Path
from test_faults import make_run, start
tracker = start("sqlite:///{tmp_path}/mlflow.db", Path("{tmp_path}"))
for number in range(100):
    tracker.publish(make_run(number))
while tracker.num_pending() > 95 or not tracker._outbox.empty():
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""
    driver = subprocess.run([sys.executable, "-c", script], check=False)
    assert driver.returncode == -signal.SIGKILL
    tracker = start(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    for number in range(100):
        tracker.publish(make_run(number))
    report = tracker.close(60)
    assert report.num_pending == 0
    assert report.num_unchanged > 5
    held = points_by_key(tmp_path / "mlflow.db", study="demo")
    assert Counter(key for key, *_ in held).most_common(1)[0][1] == 1
    assert held == whole(range(100))

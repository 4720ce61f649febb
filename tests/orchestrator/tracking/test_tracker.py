import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from waiting import wait_until

from orchestrator.tracking import publisher
from orchestrator.tracking.mlflow_run import MetricPoint, MlflowRun
from orchestrator.tracking.protocol import Close, encode
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.ui import UI_ENVIRONMENT, find_experiment, ui_command


def make_run(number: int, **changes: object) -> MlflowRun:
    fields = {
        "key": f"expert/{number}",
        "kind": "expert",
        "name": f"expert {number}",
        "params": {"lr": "0.1"},
        "metrics": [MetricPoint(name="accuracy", value=0.5, step=9, timestamp_ms=5)],
        "start_ms": 1,
        "end_ms": 2,
        "status": "FINISHED",
        **changes,
    }
    return MlflowRun(**fields)  # type: ignore[arg-type]


def start(uri: str, tmp_path: Path) -> Tracker:
    return Tracker.start(
        uri=uri, study="demo", experiment_tags={}, log_path=tmp_path / "logs" / "mlflow.log"
    )


def count_runs(database: Path) -> tuple[int, int]:
    """Returns the numbers of MLflow runs and of metric points."""
    with closing(sqlite3.connect(database)) as connection:
        runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        points = connection.execute("SELECT count(*) FROM metrics").fetchone()[0]
    return runs, points


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def mlflow_server(database: Path, *, port: int) -> Iterator[None]:
    """Runs a real MLflow server and waits until it answers."""
    process = subprocess.Popen(
        ui_command(f"sqlite:///{database}", port=port),
        env=os.environ | UI_ENVIRONMENT,
        cwd=database.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return True
        except (URLError, OSError):
            return False

    try:
        wait_until(answers, timeout_s=120)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_replay_in_a_second_session_adds_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Publishing the same study again leaves runs and points as they are, and the terminal clean.

    One session of each kind: they cost the import of mlflow.
    """
    database = tmp_path / "store" / "mlflow.db"
    uri = f"sqlite:///{database}"
    first = start(uri, tmp_path)
    for number in range(3):
        first.publish(make_run(number))
    report = first.close(60)
    assert (report.num_published, report.num_unchanged, report.num_pending) == (3, 0, 0)
    assert report.error is None
    copied = tmp_path / "copied.db"
    shutil.copyfile(database, copied)  # without the files that SQLite keeps beside it
    assert count_runs(copied)[0] == 3
    assert first.close(60) == report
    held = count_runs(database)
    second = start(uri, tmp_path)
    for number in range(4):
        second.publish(make_run(number))
    wait_until(lambda: second.num_pending() == 0)
    assert second.state() == "ok"
    report = second.close(60)
    assert (report.num_published, report.num_unchanged) == (1, 3)
    assert count_runs(database) == (held[0] + 1, held[1] + 1)
    assert find_experiment(uri, study="demo") == "1"
    assert find_experiment(uri, study="another") is None
    assert capfd.readouterr() == ("", "")
    assert "mlflow" in (tmp_path / "logs" / "mlflow.log").read_text()


def test_closing_with_an_unreachable_server_is_quick_and_counts_pending_runs(
    tmp_path: Path,
) -> None:
    """Publishing returns at once, and closing gives the reason."""
    tracker = start(f"http://127.0.0.1:{free_port()}", tmp_path)
    began_s = time.monotonic()
    for number in range(2000):
        tracker.publish(make_run(number))
    assert time.monotonic() - began_s < 2
    wait_until(lambda: tracker.state().startswith("unreachable"))
    began_s = time.monotonic()
    report = tracker.close(30)
    assert time.monotonic() - began_s < 15
    assert (report.num_published, report.num_pending) == (0, 2000)
    assert report.error is not None
    assert "unreachable" in report.error
    assert "mlflow.log" in report.error


def test_closing_never_takes_longer_than_it_may(tmp_path: Path) -> None:
    """A server that accepts connections and never answers is left at the deadline."""
    shown: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = start(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        tracker.publish(make_run(0))
        began_s = time.monotonic()
        report = tracker.close(2, show_pending=shown.append)
    assert time.monotonic() - began_s < 4
    assert len(shown) > 1
    assert set(shown) == {1}
    assert report.num_pending == 1
    assert report.error is not None
    assert "too short" in report.error


@pytest.mark.slow
def test_killed_publisher_is_replaced_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor gets the MLflow runs that the dead publisher had not confirmed."""
    monkeypatch.setattr("orchestrator.tracking.tracker._RESTART_WAIT_S", 0.1)
    database = tmp_path / "mlflow.db"
    tracker = start(f"sqlite:///{database}", tmp_path)
    tracker.publish(make_run(0))
    wait_until(lambda: tracker._process is not None)
    assert tracker._process is not None
    tracker._process.kill()
    tracker.publish(make_run(1))
    wait_until(lambda: tracker.num_pending() == 0)
    assert tracker.close(60).error is None
    assert count_runs(database)[0] == 2


@pytest.mark.slow
def test_publisher_outlives_a_killed_driver_only_to_finish_its_work(tmp_path: Path) -> None:
    """The publisher ignores Ctrl-C; after kill -9 of the driver, its MLflow runs arrive."""
    script = f"""
import os, signal, sys, time
from pathlib import Path
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.mlflow_run import MlflowRun
tracker = Tracker.start(uri="sqlite:///{tmp_path}/mlflow.db", study="demo", experiment_tags={{}},
                        log_path=Path("{tmp_path}/mlflow.log"))
for number in range(20):
    tracker.publish(MlflowRun(key=str(number), kind="k", name="n", start_ms=1, end_ms=2,
                               status="FINISHED"))
while tracker._process is None or not tracker._outbox.empty():
    time.sleep(0.01)
time.sleep(0.2)
print(tracker._process.pid, flush=True)
os.kill(tracker._process.pid, signal.SIGINT)
os.kill(os.getpid(), signal.SIGKILL)
"""
    driver = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert driver.returncode == -signal.SIGKILL
    pid = int(driver.stdout)
    wait_until(lambda: not is_alive(pid), timeout_s=publisher.ORPHAN_TIMEOUT_S + 10)
    assert count_runs(tmp_path / "mlflow.db")[0] == 20


def test_publisher_that_loses_its_driver_while_it_closes_has_half_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A living driver may wait for half an hour; a killed one must not hold up the next run."""
    limits: list[float] = []
    messages: list[object] = []
    monkeypatch.setattr(publisher, "_exit_after", limits.append)
    receiving, sending = os.pipe()
    with open(receiving, "rb") as stream:  # noqa: PTH123 an open pipe
        reader = threading.Thread(target=publisher._read, args=(stream, messages.append))
        with open(sending, "wb", buffering=0) as driver:  # noqa: PTH123 an open pipe
            driver.write(encode(Close(timeout_s=1800)))
            reader.start()
            wait_until(lambda: len(messages) > 0)
            reader.join(0.2)
            assert reader.is_alive()
            assert limits == [1800]
        reader.join(10)
    assert limits == [1800, publisher.ORPHAN_TIMEOUT_S]
    assert messages == [Close(timeout_s=1800)]


def is_alive(pid: int) -> bool:
    """Returns whether a process is running: not gone and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.large
def test_runs_arrive_once_the_server_is_up(tmp_path: Path) -> None:
    """A server that is down at the start delays nothing and loses nothing.

    In `make test`, `test_faults.py` kills a server and starts it again.
    """
    database, port = tmp_path / "server.db", free_port()
    uri = f"http://127.0.0.1:{port}"
    tracker = start(uri, tmp_path)
    tracker.publish(make_run(0, status="RUNNING"))
    wait_until(lambda: tracker.state().startswith("unreachable"))
    tracker.publish(make_run(1, parent_key="setting/s", artifacts={"figures/a.png": b"png"}))
    with mlflow_server(database, port=port):
        tracker.publish(make_run(0))
        wait_until(lambda: tracker.num_pending() == 0, timeout_s=90)
        assert tracker.state() == "ok"
        assert find_experiment(uri, study="demo") == "1"
        report = tracker.close(60)
        again = start(uri, tmp_path)
        again.publish(make_run(0))
        assert again.close(60).num_unchanged == 1
    assert (report.num_published, report.num_pending) == (2, 0)
    assert count_runs(database) == (3, 2)


def test_driver_does_not_load_mlflow() -> None:
    """No import of the driver loads mlflow, which takes 3.5 s."""
    modules = "orchestrator.tracking.tracker, orchestrator.tracking.views, orchestrator.tracking.ui"
    script = f"import sys, {modules}; print('mlflow' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert loaded.stdout == "False\n"


def test_open_server_needs_no_command_and_a_file_gets_a_local_one() -> None:
    """The pages of a database are served to this machine only."""
    command = ui_command("sqlite:////store/mlflow.db", port=5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == "sqlite:////store/mlflow.db"
    with pytest.raises(ValueError, match="open it in a browser"):
        ui_command("https://mlflow.example.org")

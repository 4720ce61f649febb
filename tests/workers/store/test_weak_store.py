"""A real S3 server that ignores conditions of puts: rclone accepts the header without effect."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.artifacts.artifacts import Artifacts
from workers.artifacts.provenance import Provenance
from workers.store.opening import check_store, open_store, supports_conditional_put
from workers.store.protocol import NotFoundError, Store, StoreCredentialsError

pytestmark = pytest.mark.s3

BUCKET = "weak"


@pytest.fixture(scope="module")
def weak_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Starts rclone's S3 server; without rclone, CI fails and other machines skip."""
    directory = tmp_path_factory.mktemp("rclone")
    (directory / BUCKET).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    command = [_rclone_binary(), "serve", "s3", "--addr", address, "--config", os.devnull]
    process = subprocess.Popen(
        [*command, "--auth-key", f"{access_key},{secret_key}", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_listening(address)
        yield f"http://{address}", access_key, secret_key
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _rclone_binary() -> str:
    beside = Path(sys.executable).with_name("rclone")
    if found := str(beside) if beside.exists() else shutil.which("rclone"):
        return found
    message = "no `rclone` binary: install the development requirements"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def _wait_until_listening(address: str) -> None:
    host, port = address.split(":")
    deadline_s = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def weak_url(weak_server: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the URL of an empty store, and sets the server's credentials."""
    endpoint_url, access_key, secret_key = weak_server
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://{BUCKET}/{secrets.token_hex(8)}?endpoint_url={endpoint_url}"


@pytest.fixture
def weak_store(weak_url: str) -> Store:
    """Opens an empty store on the server."""
    return open_store(weak_url)


def test_ignored_conditions_are_detected(weak_store: Store) -> None:
    """The probe returns False, and deletes its object."""
    assert supports_conditional_put(weak_store) is False
    assert list(weak_store.list("")) == []


def test_weak_server_passes_the_check(weak_url: str) -> None:
    """The server is usable, because the lease allows only one driver per study."""
    check_store(weak_url)
    assert list(open_store(weak_url).list("")) == []


def test_wrong_credentials_of_a_weak_server_are_reported(
    weak_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong credentials raise the same error as on other servers."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreCredentialsError, match="wrong or expired"):
        check_store(weak_url)


def test_objects_are_put_got_listed_and_deleted(weak_store: Store) -> None:
    """All operations without a condition fulfil the contract."""
    for key in ["a/b", "a-b", "c/d/e"]:
        weak_store.put(key, key.encode())
    assert weak_store.get("a/b") == b"a/b"
    weak_store.put("a/b", b"second")
    assert weak_store.get("a/b") == b"second"
    assert [(each.key, each.size_bytes) for each in weak_store.list("a")] == [
        ("a-b", 3),
        ("a/b", 6),
    ]
    assert all(abs(each.modified_at_s - time.time()) < 60 for each in weak_store.list(""))
    weak_store.delete(["a/b", "not/there"])
    assert [entry.key for entry in weak_store.list("")] == ["a-b", "c/d/e"]
    with pytest.raises(NotFoundError):
        weak_store.get("a/b")


def test_large_files_travel_both_ways_without_trailing_checksums(
    weak_store: Store, tmp_path: Path
) -> None:
    """Multipart transfers work, because the client does not send trailing checksums."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(secrets.token_bytes(20_000_000))
    weak_store.upload("large", source)
    weak_store.download("large", copy)
    assert copy.read_bytes() == source.read_bytes()
    assert weak_store.remove_unfinished("", before_s=time.time() + 60) == ()


def test_artifact_is_committed_and_found(weak_store: Store, tmp_path: Path) -> None:
    """The commit protocol works for a single writer."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    artifacts = Artifacts(weak_store)
    manifest = artifacts.commit(
        Provenance(kind="expert", id="a" * 16, version=1, spec={}, inputs={}),
        files={"weights": weights},
        metrics={},
        seconds={},
    )
    assert artifacts.find("expert", "a" * 16) == manifest

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.tracking.protocol import Target
from orchestrator.tracking.publisher_lock import PublisherBusyError, PublisherLock, lock_path

HOLD = """
import sys
from orchestrator.tracking.protocol import Target
from orchestrator.tracking.publisher_lock import PublisherLock
PublisherLock(Target(**eval(sys.argv[1]))).acquire(timeout_s=0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the lock files of the tests in a directory of their own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def make_target(**changes: object) -> Target:
    fields = {"uri": "http://mlflow", "study": "demo", "experiment_tags": {}, "rebuild": False}
    return Target(**{**fields, **changes})  # type: ignore[arg-type]


def hold(target: Target) -> subprocess.Popen[bytes]:
    """Starts a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, repr(vars(target))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_second_publisher_is_refused_with_the_process_of_the_first() -> None:
    """Publishers of another study or server are not refused."""
    with hold(make_target()) as holder:
        with pytest.raises(PublisherBusyError, match=rf"process {holder.pid} .*'demo'"):
            PublisherLock(make_target(rebuild=True)).acquire(timeout_s=0.2)
        PublisherLock(make_target(study="another")).acquire(timeout_s=0)
        PublisherLock(make_target(uri="http://other")).acquire(timeout_s=0)
        holder.kill()


def test_lock_of_a_killed_publisher_is_free() -> None:
    """No cleanup is needed after kill -9, and acquiring a held lock again returns at once."""
    with hold(make_target()) as holder:
        holder.kill()
    lock = PublisherLock(make_target())
    lock.acquire(timeout_s=0)
    lock.acquire(timeout_s=0)
    with pytest.raises(PublisherBusyError):
        PublisherLock(make_target()).acquire(timeout_s=0)


def test_lock_file_does_not_show_the_address(tmp_path: Path) -> None:
    """It is in this user's own directory, which others may have made readable."""
    path = lock_path(make_target(uri="http://someone:s3cr3t@mlflow"))
    assert path.parent == tmp_path / f"mergesweep-{os.getuid()}"
    assert "s3cr3t" not in path.name

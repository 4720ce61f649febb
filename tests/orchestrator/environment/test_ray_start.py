import os
import resource
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.environment.ray_start import check_limits, start_fault

_LOG = """\
[2026-11-28 22:24:18,813 I 15204 15204] (raylet) main.cc:283: Setting cluster ID to: 3de6452c
[2026-11-28 22:24:18,821 E 15204 15213] (raylet) dlmalloc.cc:215: mmap failed with error: no memory
[2026-11-28 22:24:18,916 C 15204 15213] (raylet) plasma_allocator.cc:79:  An unexpected system state
*** StackTrace Information ***
/lib/x86_64-linux-gnu/libc.so.6(+0x1098ec) [0x7f1f0dd278ec]
"""


class Usage(NamedTuple):
    """The part of `shutil.disk_usage` that is read."""

    free: int


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away the limits of the machine that runs the tests."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, 0))
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12))
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 1.0, 1.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def fault_at(directory: Path, *, error: Exception) -> str:
    return start_fault(directory, error=error, variables=[])


def _session(directory: Path, *, pid: int) -> Path:
    logs = directory / f"session_2026-11-28_22-24-16_138306_{pid}" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text(_LOG)
    return logs


def test_first_error_of_rays_log_is_the_reason(tmp_path: Path) -> None:
    """Ray's exception says only that its processes did not answer; other sessions do not count."""
    _session(tmp_path, pid=1)
    logs = _session(tmp_path, pid=os.getpid())
    message = start_fault(
        tmp_path, error=Exception("The current node timed out during startup."), variables=[]
    )
    assert "(mmap failed with error: no memory)" in message
    assert f"its log is in {logs};" in message
    assert "try again when the machine is less busy" in message
    assert "\n" not in message


def test_error_itself_is_the_reason_without_a_log(tmp_path: Path) -> None:
    """In one line, however long it is."""
    message = start_fault(
        tmp_path, error=RuntimeError("Could not\n  start. " + "x" * 999), variables=[]
    )
    assert "(Could not start. xxx" in message
    assert f"no log below {tmp_path};" in message
    assert len(message) < 500


def test_limited_address_space_is_a_likely_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ulimit -v` is common on login nodes, and Ray reports a bug of its own."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4 * 10**9, 4 * 10**9))
    message = fault_at(tmp_path, error=Exception("timed out"))
    assert "limited to 4.0 GB" in message
    assert "`ulimit -v unlimited`" in message


def test_hopeless_limit_is_refused_before_ray_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start would end the driver without a message."""
    check_limits()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**9, 10**9))
    with pytest.raises(ConnectionError, match=r"limited to 1\.0 GB"):
        check_limits()


def test_every_limit_of_user_disk_and_machine_is_a_likely_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its remedy; all of them are named."""
    limits = {resource.RLIMIT_NOFILE: (256, 256), resource.RLIMIT_NPROC: (60, 60)}
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits.get(kind, none))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**6))
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 1.0, 1.0))
    message = fault_at(tmp_path / "not" / "there", error=Exception("timed out"))
    assert "only 256 files: try `ulimit -n" in message
    assert "only 60 threads at once: try `ulimit -u" in message
    assert "/dev/shm cannot be written" in message
    assert "not/there has only 1 MB left" in message
    assert "/dev/shm has only 1 MB left" in message
    assert "40 processes compete for 2 cores" in message


def test_settings_of_ray_are_a_likely_cause(tmp_path: Path) -> None:
    """Those that are checked, or that every user sets, are none."""
    names = ["HOME", "RAY_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_USE_TLS"]
    message = start_fault(tmp_path, error=KeyError("x"), variables=names)
    assert message.endswith("RAY_RUNTIME_ENV_HOOK, RAY_USE_TLS are in the environment: try without")

"""Runs one process and measures what it takes: CPU, wall and memory."""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_S = 0.01
_GB = 1e9
_NUM_LINES_SHOWN = 20


class ProcessFailedError(Exception):
    """The process ended with an error, or took more memory than allowed."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process took, from its start to its end, imports included."""

    cpu_s: float
    """User and system time of all its threads."""
    wall_s: float
    peak_anonymous_gb: float
    """Largest RssAnon among samples every 10 ms: its own memory, without pages of files."""
    peak_resident_gb: float
    """The kernel's own peak, with the pages of mapped files."""


def measure(command: Sequence[str | Path], *, log: Path, limit_gb: float) -> Cost:
    """Runs a command to its end.

    The environment is the caller's without OMP_NUM_THREADS: how many threads torch takes by
    default is part of what is measured.

    Raises:
        ProcessFailedError: It failed, or held more than the limit and was killed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    sampler = _Sampler(process, limit_gb=limit_gb)
    sampler.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)  # Popen's own waiting gives no usage
    except BaseException:
        process.kill()
        raise
    wall_s = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    sampler.join()
    if sampler.peak_gb > limit_gb:
        raise ProcessFailedError(f"over {limit_gb:.1f} GB")
    if process.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()[-_NUM_LINES_SHOWN:]
        raise ProcessFailedError(f"ended with {process.returncode}:\n" + "\n".join(lines))
    return Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=wall_s,
        peak_anonymous_gb=sampler.peak_gb,
        peak_resident_gb=usage.ru_maxrss * 1024 / _GB,
    )


class _Sampler(threading.Thread):
    """Looks at a process's memory until it ends, and kills it above a limit."""

    def __init__(self, process: subprocess.Popen[bytes], *, limit_gb: float) -> None:
        super().__init__(daemon=True)
        self.peak_gb = 0.0
        self._process = process
        self._limit_gb = limit_gb

    def run(self) -> None:
        """Samples until the process has no memory any more."""
        status = Path(f"/proc/{self._process.pid}/status")
        while (anonymous_gb := _anonymous_gb(status)) is not None:
            self.peak_gb = max(self.peak_gb, anonymous_gb)
            if self.peak_gb > self._limit_gb:
                self._process.kill()
                return
            time.sleep(_SAMPLE_S)


def _anonymous_gb(status: Path) -> float | None:
    """Returns RssAnon, or None once the process has ended: a zombie's status has no such line."""
    try:
        lines = status.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return kilobytes[0] * 1024 / _GB if kilobytes else None


def available_gb() -> float:
    """Returns the memory that the kernel would give to new processes now."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024 / _GB

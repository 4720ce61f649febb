"""Runs one process and measures its CPU time, wall time and memory."""

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
    """A process that failed or exceeded the memory limit."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one process from its start to its end, including imports."""

    cpu_s: float
    """User and system time of all its threads."""
    wall_s: float
    peak_anonymous_gb: float
    """Largest RssAnon among samples every 10 ms: the process's memory without pages of files."""
    peak_resident_gb: float
    """The kernel's peak, including pages of mapped files."""


def measure(command: Sequence[str | Path], *, log: Path, limit_gb: float) -> Cost:
    """Runs a command to its end and measures it.

    OMP_NUM_THREADS is removed from the environment, because torch's default number of threads is
    part of the measurement.

    Raises:
        ProcessFailedError: The command failed, or exceeded the memory limit and was killed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
    sampler = _Sampler(process, limit_gb=limit_gb)
    sampler.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)  # Popen.wait returns no usage
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
    """A thread that samples a process's memory and kills the process above a limit."""

    def __init__(self, process: subprocess.Popen[bytes], *, limit_gb: float) -> None:
        super().__init__(daemon=True)
        self.peak_gb = 0.0
        self._process = process
        self._limit_gb = limit_gb

    def run(self) -> None:
        """Samples until the process has ended."""
        status = Path(f"/proc/{self._process.pid}/status")
        while (anonymous_gb := _anonymous_gb(status)) is not None:
            self.peak_gb = max(self.peak_gb, anonymous_gb)
            if self.peak_gb > self._limit_gb:
                self._process.kill()
                return
            time.sleep(_SAMPLE_S)


def _anonymous_gb(status: Path) -> float | None:
    """Returns RssAnon, or None if the process has ended: a zombie's status has no such line."""
    try:
        lines = status.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return kilobytes[0] * 1024 / _GB if kilobytes else None


def available_gb() -> float:
    """Returns the memory available to new processes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024 / _GB

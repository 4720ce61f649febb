"""Explains why a Ray of this process's own did not start: its logs, the limits it met."""

import math
import os
import re
import resource
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

MIN_FREE_BYTES = 200 * 10**6
"""Ray's logs, sockets and spilled objects hardly fit into less."""
MIN_OPEN_FILES = 1024
MIN_PROCESSES = 1024
MIN_ADDRESS_SPACE_BYTES = 2 * 10**9
"""With less, threads of the driver fail to start, and C++ ends the process (seen at 1.5 GB)."""
MAX_LOAD_PER_CORE = 4.0
"""With a higher load, Ray's processes may not answer within its 30 s."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 where Ray keeps objects
_FAULT = re.compile(r"\[[^\]]* [EFC] [^\]]*\] (?:\([^)]*\) )?\S+: *(?P<text>.+)")
"""A line of Ray's logs at level error or above: `[time E pid tid] (raylet) file.cc:215: text`."""
_MAX_FAULT_CHARS = 200
_ORDINARY = {
    *("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"),
    *("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_API_SERVER_ADDRESS"),
}
"""Variables that are checked before Ray is started, or hardly matter."""


def start_fault(directory: Path, *, error: BaseException, variables: Iterable[str]) -> str:
    """Returns in one line why Ray did not start, where its log is, and what to try.

    Args:
        directory: The directory of Ray's sessions.
        error: The error that Ray raised.
        variables: The names of the user's environment variables.
    """
    logs = _logs(directory)
    said = _first_fault(logs) or _one_line(str(error)) or type(error).__name__
    where = f"its log is in {logs}" if logs else f"it has written no log below {directory}"
    causes = "; ".join([*_likely_causes(directory), *_settings(variables)])
    advice = causes or (
        "try again when the machine is less busy, or join a Ray that runs already, with "
        "RAY_ADDRESS=host:port"
    )
    return f"Ray did not start on this machine ({said}); {where}; {advice}"


def _settings(variables: Iterable[str]) -> Iterator[str]:
    """Yields the user's own settings of Ray, if there are any."""
    found = sorted({name for name in variables if name.startswith("RAY_")} - _ORDINARY)
    if found:
        yield f"Ray's settings {', '.join(found)} are in the environment: try without"


def check_limits() -> None:
    """Refuses a limit under which the attempt to start Ray would end this process at once.

    Raises:
        ConnectionError: The address space is too small; the message is one line.
    """
    if _limit(resource.RLIMIT_AS) < MIN_ADDRESS_SPACE_BYTES:
        raise ConnectionError(f"Ray cannot start on this machine: {_address_space()}")


def _likely_causes(directory: Path) -> Iterator[str]:
    """Yields the limits that probably kept Ray from starting, each with its remedy."""
    if _limit(resource.RLIMIT_AS) < math.inf:
        yield _address_space()
    if (num := _limit(resource.RLIMIT_NOFILE)) < MIN_OPEN_FILES:
        yield f"a process may open only {num} files: try `ulimit -n {MIN_OPEN_FILES}`"
    if os.geteuid() != 0 and (num := _limit(resource.RLIMIT_NPROC)) < MIN_PROCESSES:
        yield f"this user may run only {num} threads at once: try `ulimit -u {MIN_PROCESSES}`"
    if _SHARED_MEMORY.exists() and not os.access(_SHARED_MEMORY, os.W_OK):
        yield f"{_SHARED_MEMORY} cannot be written: mount it writable, as Ray keeps objects there"
    for folder, remedy in (
        (directory, "free some space, or set RAY_TMPDIR to another folder"),
        (_SHARED_MEMORY, "give it more, for example with `docker run --shm-size=2g`"),
    ):
        free_bytes = _free_bytes(folder)
        if free_bytes < MIN_FREE_BYTES:
            yield f"{folder} has only {free_bytes / 1e6:.0f} MB left: {remedy}"
    load, num_cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > MAX_LOAD_PER_CORE * num_cores:
        yield f"{load:.0f} processes compete for {num_cores} cores: try again when they are fewer"


def _address_space() -> str:
    return (
        f"the address space of a process is limited to {_limit(resource.RLIMIT_AS) / 1e9:.1f} GB, "
        "but Ray maps a part of the machine's memory: try `ulimit -v unlimited`"
    )


def _limit(kind: int) -> float:
    """Returns a limit of this process, infinity if there is none."""
    limit, _ = resource.getrlimit(kind)
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _free_bytes(folder: Path) -> int:
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(existing).free


def _logs(directory: Path) -> Path | None:
    """Returns the newest logs of this process's sessions, None if there are none."""
    found = sorted(directory.glob(f"session_*_{os.getpid()}/logs"))
    return found[-1] if found else None


def _first_fault(logs: Path | None) -> str | None:
    """Returns the first error in the logs of Ray's own processes, without time and place."""
    for name in ("raylet.err", "gcs_server.err", "raylet.out", "gcs_server.out"):
        for line in _lines(logs / name) if logs else ():
            if match := _FAULT.match(line):
                return _one_line(match["text"])
    return None


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= _MAX_FAULT_CHARS else f"{joined[: _MAX_FAULT_CHARS - 3]}..."

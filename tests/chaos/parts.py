"""Starts processes, kills them with all their descendants, and starts them again."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil  # type: ignore[import-untyped]

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.2
# Below Linux's ephemeral ports, so that a port stays free while its server is dead. SeaweedFS
# listens for gRPC 10,000 ports above.
_FIRST_PORT, _LAST_PORT = 12_000, 22_000
GRPC_OFFSET = 10_000


class NotReadyError(Exception):
    """A part that is not ready in time; the message has the end of its log."""


def run_in_folder(run: Callable[[Path], bool], *, prefix: str, keep: bool) -> int:
    """Calls a function with a new folder, and kills at the end whatever this process started.

    The folder stays, and its path is printed, unless the function returns True.

    Args:
        run: Returns whether all went well.
        prefix: Begins the folder's name.
        keep: Whether the folder stays in any case.

    Returns:
        The exit code: 0 if all went well, else 1.
    """
    _clean_up_when_terminated()
    _adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix=prefix))  # short, because socket paths contain it
    is_whole = False
    try:
        is_whole = run(folder)
    finally:
        kill_all(descendants())
        if is_whole and not keep:
            shutil.rmtree(folder)
        else:
            print(f"logs: {folder}", flush=True)  # noqa: T201 a command's output
    return 0 if is_whole else 1


def _adopt_orphans() -> None:
    """Makes this process the parent of its orphaned descendants, so that none is lost."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _clean_up_when_terminated() -> None:
    """Makes SIGTERM raise SystemExit, so that this process ends its descendants."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Sends SIGKILL to processes and waits until they have ended."""
    for process in processes:
        _send(process, signal.SIGSTOP)  # so that none sees another one die, as on a lost machine
    for process in processes:
        _send(process, signal.SIGKILL)
    psutil.wait_procs([each for each in processes if each.is_running()], timeout=20)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def descendants() -> list[psutil.Process]:
    """Returns all living processes that this one started, directly or not."""
    found = psutil.Process().children(recursive=True)
    return [each for each in found if _is_alive(each)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def title(process: psutil.Process) -> str:
    """Returns a process's title, which is its command line by default; empty if it has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


def as_user(command: Sequence[str], *, user: str | None) -> list[str]:
    """Returns the command line that runs a command as another user, if one is given; needs root."""
    return ["setpriv", f"--reuid={user}", "--clear-groups", *command] if user else [*command]


class Place(Protocol):
    """A machine that can run servers."""

    @property
    def address(self) -> str:
        """The address that servers listen on."""

    def command(self, command: Sequence[str], *, user: str | None = None) -> list[str]:
        """Returns the command line that runs a command there, as another user if one is given."""


class ThisMachine:
    """This machine, at an address that only it can reach."""

    address = "127.0.0.1"

    def command(self, command: Sequence[str], *, user: str | None = None) -> list[str]:
        """Returns the command line that runs a command."""
        return as_user(command, user=user)


class Part:
    """One process with its descendants, which can be killed and started again."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        """Configures the process; `start` starts it.

        Args:
            name: Prefix of the logs, `<name>-<number of the start>.log`.
            command: The command line.
            environment: The process's whole environment.
            folder: Working directory, which also receives the logs.
        """
        self.name = name
        self.num_starts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The log of the last start."""
        return self._folder / f"{self.name}-{self.num_starts}.log"

    def start(self) -> None:
        """Starts the process in its own session."""
        assert self._process is None, f"{self.name} runs already"
        self.num_starts += 1
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def is_started(self) -> bool:
        """Whether the process was started and not killed since. It may have ended by itself."""
        return self._process is not None

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.poll()

    def text(self) -> str:
        """Returns the output since the last start."""
        return self.log.read_text(errors="replace") if self.num_starts else ""

    def has_printed(self, text: str) -> bool:
        """Returns whether the output since the last start contains a text."""
        return text in self.text()

    def children(self) -> list[psutil.Process]:
        """Returns the descendants of the process."""
        if self._process is None or self._process.poll() is not None:
            return []
        try:
            return list(psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def send(self, number: int) -> None:
        """Sends a signal to the process but not to its descendants."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self, *, alone: bool = False) -> int:
        """Kills the process and, unless `alone`, its descendants; returns their number."""
        if self._process is None:
            return 0
        children = [] if alone else self.children()
        if self._process.poll() is None:
            kill_all([psutil.Process(self._process.pid), *children])
        self._process.wait()
        self._process = None
        return len(children)

    def tail(self, num_lines: int = 15) -> str:
        """Returns the end of the log."""
        return "\n".join(self.text().splitlines()[-num_lines:])


def wait_until_ready(part: Part, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
    """Waits for a started part.

    Raises:
        NotReadyError: The part ended, or was not ready in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not is_ready():
        code = part.poll()
        if code is not None:
            raise NotReadyError(f"{part.name} ended with {code}; {part.log}:\n{part.tail()}")
        if time.monotonic() > deadline_s:
            raise NotReadyError(
                f"{part.name} was not ready after {timeout_s:.0f} s; {part.log}:\n{part.tail()}"
            )
        time.sleep(_POLL_S)


def free_ports() -> Iterator[int]:
    """Yields free ports whose gRPC ports are free too, each once."""
    # Harnesses that run side by side start their search at different ports.
    start = _FIRST_PORT + (os.getpid() * 37) % (_LAST_PORT - _FIRST_PORT)
    for port in [*range(start, _LAST_PORT), *range(_FIRST_PORT, start)]:
        if _is_free(port) and _is_free(port + GRPC_OFFSET):
            yield port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

"""Processes that are started from a command, killed with all their descendants, started again."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil  # type: ignore[import-untyped]

_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.2
# Below Linux's ephemeral range, so that a port stays free while its server is dead; SeaweedFS
# listens for gRPC 10,000 above.
_FIRST_PORT, _LAST_PORT = 12_000, 22_000
GRPC_OFFSET = 10_000


class NotReadyError(Exception):
    """A part did not become ready in time; the message has the end of its log."""


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent dies: none can be lost."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def clean_up_when_terminated() -> None:
    """Makes SIGTERM end this process as an error does, so that it ends what it has started."""

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Sends SIGKILL to processes and waits until they are gone, as zombies at most."""
    for process in processes:
        _send(process, signal.SIGSTOP)  # none of them sees another one die, as on a lost machine
    for process in processes:
        _send(process, signal.SIGKILL)
    psutil.wait_procs([each for each in processes if each.is_running()], timeout=20)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def descendants() -> list[psutil.Process]:
    """Returns every living process that this one has started, directly or not."""
    found = psutil.Process().children(recursive=True)
    return [each for each in found if _is_alive(each)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def title(process: psutil.Process) -> str:
    """Returns a process's command line, or what it has put there; empty when it is gone."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


def as_user(command: Sequence[str], *, user: str | None) -> list[str]:
    """Returns what runs a command as another user, if one is named; only root may."""
    return ["setpriv", f"--reuid={user}", "--clear-groups", *command] if user else [*command]


class Place(Protocol):
    """Where a server runs."""

    @property
    def address(self) -> str:
        """What it listens on."""

    def command(self, command: Sequence[str], *, user: str | None = None) -> list[str]:
        """Returns what runs a command there, as this process's own user if none is named."""


class ThisMachine:
    """Where only this machine reaches it."""

    address = "127.0.0.1"

    def command(self, command: Sequence[str], *, user: str | None = None) -> list[str]:
        """Returns what runs a command."""
        return as_user(command, user=user)


class Part:
    """Owns one process and its descendants; it can be killed and started again."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        """Starts nothing.

        Args:
            name: Names the logs, `<name>-<number of the start>.log`.
            command: What to run.
            environment: All of its environment.
            folder: Its working directory, and where its logs are.
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
        """Starts the process in a session of its own."""
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
        """Tells whether it was started and not killed since; it may have ended by itself."""
        return self._process is not None

    def poll(self) -> int | None:
        """Returns the exit code, None while it runs."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.poll()

    def text(self) -> str:
        """Returns what it has printed since its last start."""
        return self.log.read_text(errors="replace") if self.num_starts else ""

    def has_printed(self, text: str) -> bool:
        """Tells whether it has printed a text since its last start."""
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
        """Sends a signal to the process alone."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self, *, alone: bool = False) -> int:
        """Kills the process, and unless `alone` its descendants; returns how many these were."""
        if self._process is None:
            return 0
        children = [] if alone else self.children()
        if self._process.poll() is None:
            kill_all([psutil.Process(self._process.pid), *children])
        self._process.wait()
        self._process = None
        return len(children)

    def tail(self, num_lines: int = 15) -> str:
        """Returns the end of its log."""
        return "\n".join(self.text().splitlines()[-num_lines:])


def wait_until_ready(part: Part, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
    """Waits for a part that was started.

    Raises:
        NotReadyError: It ended, or was not ready in time.
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
    """Yields ports that are free together with their gRPC ports, each once."""
    # Harnesses side by side start their search at different places.
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

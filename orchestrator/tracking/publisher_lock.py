"""One publisher at a time for a study and a server on this machine.

A publisher that outlives its killed driver goes on for up to half a minute. The driver that resumes
the study starts its own meanwhile, and each would create the runs that the other is about to.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from pathlib import Path

from orchestrator.tracking.protocol import Target

_POLL_S = 0.1
_MAX_PID_CHARS = 20


class PublisherBusyError(ConnectionError):
    """Another process publishes the same study to the same place."""


class PublisherLock:
    """Is held from `acquire` to the end of the process, however that comes."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._descriptor: int | None = None

    def acquire(self, *, timeout_s: float) -> None:
        """Waits for the lock; does nothing if this object holds it.

        Raises:
            PublisherBusyError: Another process has held it for all of `timeout_s`.
            OSError: The lock's file cannot be written.
        """
        if self._descriptor is not None:
            return
        path = lock_path(self._target)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._wait(descriptor, deadline_s=time.monotonic() + timeout_s)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _wait(self, descriptor: int, *, deadline_s: float) -> None:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline_s:
                    pid = os.pread(descriptor, _MAX_PID_CHARS, 0).decode()
                    raise PublisherBusyError(
                        f"process {pid} on this machine publishes study {self._target.study!r} to "
                        "the same MLflow; wait for the end of the run that it belongs to"
                    ) from error
                time.sleep(_POLL_S)
            else:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return


def lock_path(target: Target) -> Path:
    """Returns the file that stands for a study and a server; it stays behind."""
    name = hashlib.sha256(f"{target.uri}\n{target.study}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mergesweep-publisher-{os.getuid()}-{name}.lock"

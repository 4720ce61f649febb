"""Keeps two publishers of one machine from publishing a study to the same MLflow at once.

A publisher goes on for up to half a minute after its driver was killed. If the study is resumed
meanwhile, the new driver starts a publisher too. Without the lock, both would create the same
MLflow runs.
"""

import fcntl
import os
import time
from pathlib import Path

from eval.digests import sha256_of_bytes
from orchestrator.tracking.protocol import Target
from workers.store.private_directory import user_directory

_POLL_S = 0.1
_MAX_PID_CHARS = 20


class PublisherBusyError(ConnectionError):
    """Another process on this machine publishes the same study to the same MLflow."""


class PublisherLock:
    """A lock on a file, held from `acquire` until the process ends in any way."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._descriptor: int | None = None

    def acquire(self, *, timeout_s: float) -> None:
        """Waits for the lock; returns at once if this object holds it.

        Raises:
            PublisherBusyError: Another process has held it for all of `timeout_s`.
            OSError: The lock's file cannot be written, or its directory is not this user's own.
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
                        f"process {pid} on this machine is publishing study "
                        f"{self._target.study!r} to the same MLflow; wait until it ends"
                    ) from error
                time.sleep(_POLL_S)
            else:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return


def lock_path(target: Target) -> Path:
    """Returns the lock's file for a study and a server; the file is never deleted.

    Raises:
        NotPrivateError: This user has no directory of its own for locks.
    """
    name = sha256_of_bytes(f"{target.uri}\n{target.study}".encode())[:16]
    return user_directory() / f"publisher-{name}.lock"

"""Turns Ctrl-C, SIGTERM and SIGHUP into an orderly end, and a second one into an end at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from orchestrator.cli.exit_codes import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; the end that Slurm and Kubernetes ask for; a closed terminal."""
REPEATED_WITHIN_S = 1.0
"""A signal that comes this soon after the first is the same one: a terminal sends Ctrl-C to all
processes of a command, and programs such as `make` and `script` pass it on once more."""
_STDOUT = 1
_SHOW_CURSOR = b"\x1b[?25h"


class _Handler:
    """Calls a function at the first signal, and ends the process at the second."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._first_s: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._first_s is None:
            self._first_s = time.monotonic()
            self._on_first()
        elif time.monotonic() - self._first_s > REPEATED_WITHIN_S:
            _end()


def end_on_signals() -> None:
    """Makes every signal end the process at once, from now on: there is nothing to put in order."""
    _install(_Handler(_end))


@contextlib.contextmanager
def interrupting_signals() -> Iterator[None]:
    """Makes the first signal raise `KeyboardInterrupt`, for the length of a `with` block."""
    with _handled_by(_Handler(_interrupt)):
        yield


@contextlib.contextmanager
def stopping_signals(stopping: threading.Event) -> Iterator[None]:
    """Makes the first signal set an event, for the length of a `with` block."""
    with _handled_by(_Handler(stopping.set)):
        yield


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    before = _install(handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _install(handler: _Handler) -> dict[signal.Signals, Any]:
    """Installs a handler; returns the handlers before it.

    Ignored signals stay ignored: `nohup` has a reason, and so has a shell that starts a command in
    the background.
    """
    return {
        number: signal.signal(number, handler)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def _interrupt() -> None:
    raise KeyboardInterrupt


def _end() -> None:
    """Ends the process at once; a terminal gets its cursor back, which a live panel hides."""
    with contextlib.suppress(OSError):
        if os.isatty(_STDOUT):
            os.write(_STDOUT, _SHOW_CURSOR)
    os._exit(INTERRUPTED)

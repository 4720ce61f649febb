"""Turns Ctrl-C, SIGTERM and SIGHUP into an orderly end, and a second one into an end at once.

Python calls handlers on the main thread, between two instructions. Inside a long call of torch, or
while it waits for threads that are, nothing happens. So a thread can watch too, and end the process
if an interrupt has not done so in time. In `__del__` and in callbacks of weak references, Python
prints an exception and ignores it, so an interrupt that was raised there is raised again.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from orchestrator.cli.exit_codes import INTERRUPTED
from workers.store.unfinished import remove_unfinished

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; the end that Slurm and Kubernetes ask for; a closed terminal."""
REPEATED_WITHIN_S = 1.0
"""A signal that comes this soon after the first is the same one: a terminal sends Ctrl-C to all
processes of a command, and programs such as `make` and `script` pass it on once more."""
END_WITHIN_S = 1.0
"""Seconds for the orderly end of a command, in which blocks delete what they have begun."""
_AGAIN_AFTER_S = 0.02
"""Seconds after which an interrupt that Python has ignored is raised again."""
_STDOUT, _STDERR = 1, 2
_SHOW_CURSOR = b"\x1b[?25h"


class _Handler:
    """Calls a function at the first signal, and ends the process at the second."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._first_s: float | None = None
        self._number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._first_s is None:
            self._first_s, self._number = time.monotonic(), number
            self._on_first()
        elif time.monotonic() - self._first_s > REPEATED_WITHIN_S:
            _end()

    def send_again(self) -> None:
        """Sends the first signal once more, after a moment, as the first one."""
        time.sleep(_AGAIN_AFTER_S)
        self._first_s = None
        if isinstance(signal.getsignal(self._number), _Handler):
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)

    @property
    def has_run(self) -> bool:
        """Returns whether a signal has come."""
        return self._first_s is not None


def was_interrupted() -> bool:
    """Returns whether a signal has come since the present `with` block took charge of signals.

    An import that is interrupted may raise another error, such as numpy's ImportError.
    """
    handlers = map(signal.getsignal, SIGNALS)
    return any(isinstance(each, _Handler) and each.has_run for each in handlers)


def end_on_signals() -> None:
    """Makes every signal end the process at once, from now on: there is nothing to put in order."""
    _install(_Handler(_end))


@contextlib.contextmanager
def interrupting_signals(*, within_s: float | None = None) -> Iterator[None]:
    """Makes the first signal raise `KeyboardInterrupt`, for the length of a `with` block.

    Args:
        within_s: If the block has not ended so long after the signal, the process ends at once;
            None to wait for ever. Blocks inside that handle signals themselves are left alone.
    """
    handler = _Handler(_interrupt)
    with _handled_by(handler), _repeated(handler), contextlib.ExitStack() as watched:
        if within_s is not None:
            watched.enter_context(_watched(handler, within_s=within_s))
        yield


@contextlib.contextmanager
def stopping_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Makes the first signal call a function, for the length of a `with` block."""
    with _handled_by(_Handler(stop)):
        yield


@contextlib.contextmanager
def _handled_by(handler: _Handler) -> Iterator[None]:
    before = _install(handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def _repeated(handler: _Handler) -> Iterator[None]:
    """Has an interrupt of this handler raised again if Python ignores it."""
    before = sys.unraisablehook

    def repeat(ignored: "sys.UnraisableHookArgs") -> None:
        if handler.has_run and isinstance(ignored.exc_value, KeyboardInterrupt):
            # Not by `threading`, whose lock the interrupted code may hold.
            _thread.start_new_thread(handler.send_again, ())
        else:
            before(ignored)

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _watched(handler: _Handler, *, within_s: float) -> Iterator[None]:
    """Starts a thread that learns of each signal at once, and stops it at the end of the block."""
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)

    def watch() -> None:
        with open(receiving, "rb", buffering=0) as signals:  # noqa: PTH123 an open pipe
            while number := signals.read(1):
                if signal.getsignal(number[0]) is handler:
                    time.sleep(within_s)
                if signal.getsignal(number[0]) is handler:
                    with contextlib.suppress(OSError):
                        os.write(_STDERR, b"interrupted\n")
                    _end()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sending)


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
    """Ends the process at once, without temporary files and hidden cursors of live panels."""
    remove_unfinished()
    with contextlib.suppress(OSError):
        if os.isatty(_STDOUT):
            os.write(_STDOUT, _SHOW_CURSOR)
    os._exit(INTERRUPTED)

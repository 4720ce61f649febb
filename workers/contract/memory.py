"""Measures the memory that a function takes at its peak, in a process of its own."""

import multiprocessing
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

LIMIT_S = 30
"""Time for the function. Methods that learn in many steps may take longer."""
_STATUS = Path("/proc/self/statm")


class MeasuredError(Exception):
    """The function failed; the message is that of its error."""


def grown_bytes(function: Callable[[], None]) -> int | None:
    """Returns the bytes by which a process grows at the peak of a function.

    None stands for an unknown number: the function takes too long, or the system tells no peak.

    The function runs in a fork of this process, whose peak begins at its present size.

    Raises:
        MeasuredError: The function failed, or the process was ended.
    """
    if sys.platform != "linux":
        return None
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_measure, args=(function, sender))
    process.start()
    sender.close()
    try:
        found: int | str = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGALRM:
            return None
        found = "the process that merges a large model was ended, perhaps for lack of memory"
    process.join()
    if isinstance(found, str):
        raise MeasuredError(found)
    return found


def _measure(function: Callable[[], None], sender: Connection) -> None:
    signal.alarm(LIMIT_S)  # its default action ends the process
    page_bytes = resource.getpagesize()
    before = int(_STATUS.read_text().split()[1]) * page_bytes
    try:
        function()
    except Exception as error:  # noqa: BLE001 the user's code may raise anything
        sender.send(f"{type(error).__name__}: {error}")
        return
    sender.send(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

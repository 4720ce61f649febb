"""Measures the memory that a function takes at its peak, in a process of its own."""

import contextlib
import ctypes
import gc
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from workers.forked import NoAnswerError, answer_of_fork

LIMIT_S = 30
"""Time for the function. Methods that learn in many steps may take longer."""
_STATUS = Path("/proc/self/status")
_PEAK_RESET = Path("/proc/self/clear_refs")
_RESET = "5"
"""Makes the kernel count the peak from now on."""


class MeasuredError(Exception):
    """The function failed; the message is that of its error."""


def grown_bytes(function: Callable[[], None]) -> int | None:
    """Returns the bytes by which a process grows at the peak of a function.

    None stands for an unknown number: the function takes too long, or the system tells no peak.

    The function runs in a fork of this process. Memory that this process has freed and kept would
    serve the function unseen, so the fork gives it back first, and its peak begins at what is left.

    Raises:
        MeasuredError: The function failed, or the process was ended.
    """
    if sys.platform != "linux":
        return None
    try:
        found = answer_of_fork(partial(_measured, function), limit_s=LIMIT_S)
    except NoAnswerError as end:
        if end.is_by(signal.SIGALRM):
            return None
        raise MeasuredError(
            "the process that merges a large model was ended, perhaps for lack of memory"
        ) from None
    if isinstance(found, str):
        raise MeasuredError(found)
    return found


def _measured(function: Callable[[], None]) -> int | str | None:
    """Returns the grown bytes, an error of the function in words, or None for an unknown peak."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other C libraries keep what they keep
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        _PEAK_RESET.write_text(_RESET)
        before = _status_bytes("VmRSS")
    except OSError:
        return None
    try:
        function()
    except Exception as error:  # noqa: BLE001 the user's code may raise anything
        return f"{type(error).__name__}: {error}"
    return _status_bytes("VmHWM") - before


def _status_bytes(name: str) -> int:
    """Returns a size that the kernel tells of this process: `VmRSS` now, `VmHWM` at its peak."""
    lines = _STATUS.read_text().splitlines()
    (line,) = (each for each in lines if each.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])

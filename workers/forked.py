"""Processes beside this one: forks, whose crash ends only them, and modules that run alone."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_OUTPUT, _ERRORS = 1, 2
"""The file descriptors of standard output and standard error."""
_RUN = (
    "import runpy, sys; root, name = sys.argv[1:3]; del sys.argv[1:3]; "
    "root in sys.path or sys.path.insert(0, root); "
    "runpy.run_module(name, run_name='__main__', alter_sys=True)"
)


class NoAnswerError(Exception):
    """A fork ended before its function returned."""

    def __init__(self, exit_code: int) -> None:
        """Keeps the exit code, which is the negative number of the signal that ended the fork."""
        super().__init__(f"the fork ended with exit code {exit_code}")
        self.exit_code = exit_code

    def is_by(self, *signals: signal.Signals) -> bool:
        """Returns whether one of these signals ended the fork; SIGALRM is the time limit's."""
        return -self.exit_code in signals


def answer_of_fork(function: Callable[[], T], *, limit_s: int) -> T:
    """Returns the result of a function that runs in a fork of this process.

    The function may print: its output goes to standard error, as this process may answer on its
    standard output. An error of the function is printed there too, and ends the fork.

    Args:
        function: Its result is pickled.
        limit_s: The time after which the fork is ended, in seconds.

    Raises:
        NoAnswerError: The fork ended without a result.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_answer, args=(function, sender), kwargs={"limit_s": limit_s})
    process.start()
    sender.close()
    try:
        answer: T = receiver.recv()
    except (EOFError, OSError):  # OSError: the fork ended while it sent its answer
        process.join()
        raise NoAnswerError(process.exitcode or 0) from None
    finally:
        receiver.close()
    process.join()
    return answer


def _answer(function: Callable[[], T], sender: Connection, *, limit_s: int) -> None:
    signal.alarm(limit_s)  # its default action ends the process, also inside native code
    os.dup2(_ERRORS, _OUTPUT)
    sender.send(function())


def module_command(name: str) -> list[str]:
    """Returns the command that runs a module, whatever files lie in the user's current folder.

    `python -m` looks for modules in the current folder first. Where somebody works on merging, that
    folder may well have a `merge.py`, an `eval.py` or a `workers.py`, which would run instead.

    Args:
        name: The module, or a package with a `__main__`.
    """
    return [sys.executable, "-P", "-c", _RUN, str(Path(__file__).resolve().parents[1]), name]

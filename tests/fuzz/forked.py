"""Runs `mergesweep` in forked children of a process that has loaded torch once.

A fresh process takes two seconds until torch is loaded; a fork takes milliseconds. The child runs
the same entry point as the installed command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import timm  # noqa: F401 loaded before the fork
import torch
from safetensors import torch as _loaded  # noqa: F401 loaded before the fork

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from case import Command
from orchestrator.cli.main import main

torch.set_num_threads(1)
CRASHED = 70
"""Exit code of a child that cannot even begin its command."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command ended."""

    code: int | None
    """The exit code, negative for a signal; None if the time limit ended the command."""
    output: str
    """Standard output."""
    errors: str
    """Standard error."""
    seconds: float


def run_command(
    command: Command, *, folder: Path, environment: Mapping[str, str], timeout_s: float
) -> Ending:
    """Runs one command in a folder, with nothing on its standard input."""
    logs = [folder.parent / f"{folder.name}.{stream}" for stream in ("output", "errors")]
    began_s = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(command, folder=folder, logs=logs, environment=environment)
    code = _wait(child, timeout_s=timeout_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # processes that the command left behind
    output, errors = (log.read_bytes().decode("utf-8", "replace") for log in logs)
    for log in logs:
        log.unlink()
    return Ending(code=code, output=output, errors=errors, seconds=time.monotonic() - began_s)


def _wait(child: int, *, timeout_s: float) -> int | None:
    deadline_s = time.monotonic() + timeout_s
    pause_s = 0.001
    while time.monotonic() < deadline_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause_s)
        pause_s = min(0.05, pause_s * 1.5)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become(
    command: Command, *, folder: Path, logs: Sequence[Path], environment: Mapping[str, str]
) -> None:
    """Turns this forked child into the command; never returns."""
    code = CRASHED
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, log in enumerate(logs, start=1):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", buffering=1, errors="replace")
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="replace")
        os.chdir(folder)
        os.environ.update(environment)
        sys.argv = ["mergesweep", *command]
        main()
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:  # noqa: BLE001 printed as the interpreter does
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")  # as the interpreter does
    return 1

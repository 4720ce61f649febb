import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import signals
from orchestrator.cli.signals import (
    SIGNALS,
    interrupting_signals,
    stopping_signals,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def nothing_ignored() -> Iterator[None]:
    """Lets signals through that `nohup` or a shell in the background made this process ignore."""
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_interrupts(number: int) -> None:
    """A closed terminal and Slurm's signal end a command as Ctrl-C does."""
    before = signal.getsignal(number)
    with interrupting_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_stops_trials_in_order(number: int) -> None:
    """The same signal, passed on by `make` or `script`, changes nothing."""
    stopping = threading.Event()
    with stopping_signals(stopping.set):
        assert not stopping.is_set()
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert stopping.is_set()


def test_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for anything, and its exit code is that of an interruption."""
    monkeypatch.setattr(signals, "REPEATED_WITHIN_S", -1.0)
    monkeypatch.setattr(signals, "remove_unfinished", lambda: None)  # it stops other threads
    monkeypatch.setattr(os, "_exit", sys.exit)
    with stopping_signals(threading.Event().set):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 130


class Freed:
    """Gets a signal, or raises an error, while it is freed: Python ignores both."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def __del__(self) -> None:
        if self._error is not None:
            raise self._error
        signal.raise_signal(signal.SIGTERM)


def free_and_wait(freed: Freed) -> None:
    del freed
    time.sleep(5)


def test_interrupt_that_python_ignores_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other errors that Python ignores are reported as before."""
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: reported.append(ignored.exc_value))
    error = ValueError("no interrupt")
    with interrupting_signals():
        Freed(error)
        with pytest.raises(KeyboardInterrupt):
            free_and_wait(Freed())
    assert reported == [error]


def test_ignored_signals_stay_ignored() -> None:
    """`nohup` and shells in the background ignore some on purpose."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping = threading.Event()
    with interrupting_signals():
        signal.raise_signal(signal.SIGHUP)
        with stopping_signals(stopping.set):
            signal.raise_signal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)
    assert not stopping.is_set()


def test_exit_code_holds_after_an_interrupt_in_exec(tmp_path: Path) -> None:
    """The interpreter would end by the signal instead, although it was handled."""
    code = "import os, signal\nexec('os.kill(os.getpid(), signal.SIGINT)')\n"
    (tmp_path / "pyarrow.py").write_text(code)
    process = subprocess.run(
        [sys.executable, "-m", "orchestrator", "results", "small"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 130
    assert process.stderr == "\ninterrupted\n"


def test_interrupt_during_the_imports_ends_without_a_traceback(tmp_path: Path) -> None:
    """The command line is the first module that takes time to load."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = subprocess.run(
        [sys.executable, "-m", "orchestrator", "methods"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 130
    assert process.stdout + process.stderr == ""


@pytest.mark.parametrize(
    "code",
    [
        # Python itself would end as if killed by SIGINT; dataclasses execute a text.
        "exec('raise KeyboardInterrupt')",
        "import os\ntry: os.kill(os.getpid(), 2)\nexcept BaseException: raise ImportError",
    ],
)
def test_exit_code_of_an_interrupted_import_is_that_of_an_interruption(
    tmp_path: Path, code: str
) -> None:
    """Neither Python nor a module in the midst of its import changes it."""
    (tmp_path / "rich.py").write_text(code)
    process = subprocess.run(
        [sys.executable, "-m", "orchestrator", "methods"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stderr.strip()) == (130, "interrupted")


def test_a_command_that_does_not_end_in_time_is_ended(tmp_path: Path) -> None:
    """Its main thread is held up after the interrupt, and its temporary files are gone."""
    program = """
import os, pathlib, signal, time
from orchestrator.cli.signals import interrupting_signals
from workers.store.atomic import replacing
with interrupting_signals(within_s=0.1):
    with replacing(pathlib.Path("out")) as temporary:
        temporary.touch()
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            time.sleep(60)
"""
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (process.returncode, process.stderr) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_handles_signals_otherwise_is_left_alone() -> None:
    """A run stops in order, which may take as long as it takes."""
    stopping = threading.Event()
    with interrupting_signals(within_s=0.0), stopping_signals(stopping.set):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.1)
    assert stopping.is_set()

"""The end of every command: one message, one of the exit codes, and no traceback."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from orchestrator.cli.command_line import TRACEBACK_VARIABLE, report_in_threads
from orchestrator.cli.verbs import methods as methods_verb
from orchestrator.progress.plain_console import PlainConsole
from workers.store.machine_errors import NotPrivateError
from workers.store.protocol import StoreFullError

Raising = Callable[[BaseException], None]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Raising:
    """Makes `mergesweep methods` raise an error; temporary files go to the test's directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def set_error(error: BaseException) -> None:
        def fail(console: PlainConsole, *, listed: object) -> None:
            assert listed
            console.print("begun")
            raise error

        monkeypatch.setattr(methods_verb, "print_methods", fail)

    return set_error


def test_unexpected_error_is_one_line_and_a_file(
    call: Callable[..., Result], raising: Raising, tmp_path: Path
) -> None:
    """The terminal shows kind and message; the traceback is in a file of the user's own."""
    raising(KeyError("x\x1b[31m\nError: forged"))
    result = call("methods")
    assert result.exit_code == 1
    assert result.stdout == "begun\n"
    first, second = result.stderr.splitlines()
    assert first == r"Error: KeyError: 'x\x1b[31m\nError: forged'"
    (trace,) = tmp_path.glob("mergesweep-*/error-*")
    assert str(trace) in second
    assert TRACEBACK_VARIABLE in second
    assert "Traceback (most recent call last)" in trace.read_text()
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "error", [NotPrivateError("/tmp/x is a link; set TMPDIR"), StoreFullError("full; free some")]
)
def test_errors_of_machine_and_store_need_no_traceback(
    call: Callable[..., Result], raising: Raising, tmp_path: Path, error: Exception
) -> None:
    """Their messages are written for users, whichever verb meets them."""
    raising(error)
    result = call("methods")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {error}\n"
    assert not list(tmp_path.glob("mergesweep-*/error-*"))


def test_variable_shows_the_traceback(
    call: Callable[..., Result], raising: Raising, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For developers: nothing is written."""
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    raising(RuntimeError("why"))
    result = call("methods")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("Error: RuntimeError: why\n")


def test_error_is_reported_even_without_a_place_for_its_traceback(
    call: Callable[..., Result], raising: Raising, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is often the cause itself."""
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/none")
    raising(OSError(28, "No space left on device"))
    result = call("methods")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert "could not be written to a file" in result.stderr


def test_unexpected_error_in_a_thread_is_one_line_too(
    raising: Raising, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verb goes on: the display and the publisher have threads of their own."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    report_in_threads()
    assert raising

    def fail() -> None:
        raise ValueError("why")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    printed = capsys.readouterr().err
    assert printed.startswith("Error: ValueError: why\nThis error was not foreseen.")
    assert "Traceback" not in printed


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EOFError()])
def test_interrupt_has_its_exit_code(
    call: Callable[..., Result], raising: Raising, error: BaseException
) -> None:
    """Without a traceback, and with nothing else than a word."""
    raising(error)
    result = call("methods")
    assert result.exit_code == 130
    assert result.stderr == "\ninterrupted\n"


def test_usage_errors_quote_what_was_given_without_sending_it(call: Callable[..., Result]) -> None:
    """Click's own messages go the same way."""
    result = call("stat\x1b[31mus")
    assert result.exit_code == 2
    assert r"\x1b[31m" in result.stderr
    assert "\x1b" not in result.output


def test_file_names_that_are_no_text_are_named(call: Callable[..., Result]) -> None:
    """Their bytes are spelt."""
    result = call("plan", os.fsdecode(b"study-\xff.yaml"))
    assert result.exit_code == 2
    assert r"study-\udcff.yaml" in result.stderr

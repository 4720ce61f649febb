"""A function in a fork: its answer, its output, and forks that end without an answer."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from workers.forked import NoAnswerError, answer_of_fork, module_command


def test_answer_comes_from_another_process() -> None:
    """The result is pickled: an object of this process cannot be changed from there."""
    ours = [1]

    def append() -> tuple[int, list[int]]:
        ours.append(2)
        return os.getpid(), ours

    pid, theirs = answer_of_fork(append, limit_s=60)
    assert pid != os.getpid()
    assert (ours, theirs) == ([1], [1, 2])


def test_output_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """The caller may answer questions on its standard output."""
    answer_of_fork(lambda: os.write(1, b"printed\n"), limit_s=60)
    assert tuple(capfd.readouterr()) == ("", "printed\n")


def end_while_sending() -> object:
    """Returns an object that ends the process when it is pickled."""

    class Ending:
        def __reduce__(self) -> str:
            os._exit(4)

    return Ending()


@pytest.mark.parametrize(
    ("function", "exit_code"),
    [
        (lambda: os._exit(3), 3),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
        (lambda: 1 / 0, 1),
        (end_while_sending, 4),
        (lambda: lambda: None, 1),
    ],
    ids=["exit", "killed", "error", "while sending", "not picklable"],
)
def test_fork_that_ends_without_an_answer(function: Callable[[], object], exit_code: int) -> None:
    """The error has the exit code."""
    with pytest.raises(NoAnswerError) as caught:
        answer_of_fork(function, limit_s=60)
    assert caught.value.exit_code == exit_code
    assert caught.value.is_by(signal.SIGKILL) == (exit_code == -signal.SIGKILL)


def test_limit_ends_an_endless_function() -> None:
    """It ends the fork at about the limit, by the signal of an alarm."""
    started_s = time.monotonic()
    with pytest.raises(NoAnswerError) as caught:
        answer_of_fork(signal.pause, limit_s=1)
    assert caught.value.is_by(signal.SIGALRM)
    assert 1 <= time.monotonic() - started_s < 30


def test_torn_answer_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that ends while it sends has sent a part of its answer."""

    def tear(connection: Connection, message: bytes) -> None:
        os.write(connection.fileno(), message[: len(message) // 2])
        os._exit(5)

    monkeypatch.setattr(Connection, "_send", tear)
    with pytest.raises(NoAnswerError) as caught:
        answer_of_fork(lambda: "a" * 1000, limit_s=60)
    assert caught.value.exit_code == 5


def test_module_runs_whatever_the_current_folder_has(tmp_path: Path) -> None:
    """People who merge models have files of these names, and `python -m` would run them."""
    for name in ("workers", "merge", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [*module_command("workers.run"), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "--store" in ended.stdout

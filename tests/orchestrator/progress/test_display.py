import errno
import time
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.progress.display import Display
from orchestrator.progress.live_state import LiveState
from orchestrator.progress.panel import preparation_line
from orchestrator.progress.plain_console import PlainConsole
from orchestrator.progress.state import Progress
from workers.prepare.progress import PreparationProgress

PROGRESS = Progress(
    elapsed_s=0,
    stage="fine-tuning",
    stages=(),
    axes=(),
    trials=(),
    num_trials=0,
    images=(),
    failures=(),
    num_failures=0,
    per_minute={},
    in_use=(),
    seconds_left=None,
    tracking="ok",
)


def preparing(num_done: int) -> PreparationProgress:
    return PreparationProgress(
        task="mnist_5k",
        num_images=1000,
        num_done=num_done,
        images_per_s=50.0 if num_done else 0.0,
    )


def test_display_prints_lines_and_each_note_once() -> None:
    """Without a terminal there are plain lines; a note at the very end is printed too."""
    printed = StringIO()
    state = LiveState()
    with Display(state, console=Console(file=printed, width=120), current=lambda: PROGRESS):
        state.note_failure("trial a failed: [Errno 28] disk")
        while "fine-tuning" not in printed.getvalue():
            time.sleep(0.05)
        state.notes.append("the last word")
    lines = printed.getvalue().splitlines()
    assert sorted(lines) == [
        "[00:00] fine-tuning",
        "the last word",
        "trial a failed: [Errno 28] disk",
    ]
    assert state.failures == ["trial a failed: [Errno 28] disk"]


def test_terminal_without_a_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel would never be drawn on it before the end."""
    monkeypatch.setenv("TERM", "dumb")
    printed = StringIO()
    console = PlainConsole(file=printed, width=120, force_terminal=True)
    with Display(LiveState(), console=console, current=lambda: PROGRESS):
        while "fine-tuning" not in printed.getvalue():
            time.sleep(0.05)
    assert printed.getvalue() == "[00:00] fine-tuning\n"


def test_task_that_has_just_begun_has_no_speed_yet() -> None:
    """A speed of 0 would be misleading."""
    assert preparation_line(preparing(0)) == "mnist_5k 0 of 1,000 images"
    assert preparation_line(preparing(250)) == "mnist_5k 250 of 1,000 images, 50 a second"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_display_that_fails_says_so_once_and_goes_on(*, is_terminal: bool) -> None:
    """The run is not ended, its notes are printed, and the next numbers are shown."""
    printed = StringIO()
    state = LiveState()
    calls = iter(range(1000))

    def current() -> Progress:
        if next(calls) < 2:
            raise ZeroDivisionError("no\nspeed")
        return PROGRESS

    console = Console(file=printed, width=120, force_terminal=is_terminal)
    with (
        Display(state, console=console, current=current),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("orchestrator.progress.display.LINE_EVERY_S", 0.0)
        while "fine-tuning" not in printed.getvalue():
            time.sleep(0.05)
        state.notes.append("the last word")
    text = printed.getvalue()
    line = "the progress display failed; the run goes on: ZeroDivisionError: no speed"
    assert text.count(line) == 1
    assert "the last word" in text


def test_console_that_takes_nothing_ends_the_thread_in_order() -> None:
    """A full disk loses the notes, and nothing waits for ever."""

    class Full(StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(errno.ENOSPC, text)

    state = LiveState()
    state.notes.append("lost")
    with Display(state, console=PlainConsole(file=Full(), width=120), current=lambda: PROGRESS):
        time.sleep(0.3)
    assert state.notes == []

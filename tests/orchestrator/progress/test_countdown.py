import io

from manual_clock import ManualClock

from orchestrator.progress.countdown import Countdown, counting_down
from orchestrator.progress.plain_console import PlainConsole


def test_number_left_is_told_every_ten_seconds_with_the_time_at_the_speed_so_far() -> None:
    """50 of 2,000 MLflow runs in 1 s leave 39 s; nothing is told once all are sent."""
    clock, told = ManualClock(), list[str]()
    countdown = Countdown(told.append, every_s=10, clock=clock)
    clock.now_s += 9  # the report is drawn before anything is counted
    for second in range(41):
        countdown.show(2000 - 50 * second)
        clock.now_s += 1
    assert told == [
        "1,950 MLflow runs left to send, about 39 s",
        "1,450 MLflow runs left to send, about 29 s",
        "950 MLflow runs left to send, about 19 s",
        "450 MLflow runs left to send, about 9 s",
    ]


def test_time_is_not_guessed_before_anything_is_sent() -> None:
    """A server that takes nothing has no speed."""
    told = list[str]()
    countdown = Countdown(told.append, every_s=0, clock=ManualClock())
    countdown.show(1)
    assert told == ["1 MLflow run left to send"]


def test_file_gets_the_work_as_a_line() -> None:
    """A log has one line for the work, and none of a status that moves."""
    file = io.StringIO()
    with counting_down(PlainConsole(file=file), work="writing tables") as show:
        show(5)
    assert file.getvalue() == "writing tables\n"


def test_terminal_shows_the_number_beside_the_work() -> None:
    """The status has both."""
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=True)
    with counting_down(console, work="writing tables") as show:
        show(1234)
    assert "writing tables: 1,234 MLflow runs left to send" in file.getvalue()

"""What a run shows while it goes on: a live panel on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from orchestrator.ledger import Counts

LINE_EVERY_S = 10.0
"""Between two lines where the output is not a terminal."""
MAX_TRIALS_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that a worker holds."""

    name: str
    step: int
    steps: int
    loss: float | None


@dataclass(kw_only=True)
class Board:
    """The state that is shown; written by the driver's threads, read by the display's."""

    stage: str = "starting"
    trials: dict[str, RunningTrial] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What a user should know, such as failures; each is shown once."""


class Display:
    """Owns the thread that shows a board; use as a context manager."""

    def __init__(
        self,
        board: Board,
        *,
        console: Console,
        counts: Callable[[], Counts],
        seconds_left: Callable[[], float | None],
        tracking: Callable[[], str],
    ) -> None:
        self._board = board
        self._console = console
        self._counts = counts
        self._seconds_left = seconds_left
        self._tracking = tracking
        self._started = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)

    def __enter__(self) -> Self:
        """Starts showing."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops showing, after the last state."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=4, transient=True) as live:
                while not self._closing.wait(0.25):
                    live.update(self._panel())
                    self._print_notes()
        else:
            while not self._closing.wait(0.25):
                self._print_notes()
                if time.monotonic() - self._started >= self._next_line_s:
                    self._next_line_s += LINE_EVERY_S
                    self._console.print(self.line(), soft_wrap=True, highlight=False)
        self._print_notes()

    _next_line_s = 0.0

    def _print_notes(self) -> None:
        while self._board.notes:
            note = self._board.notes.pop(0)
            self._console.print(note, soft_wrap=True, highlight=False, markup=False)

    def line(self) -> str:
        """Returns the state in one line."""
        counts = self._counts()
        parts = [
            f"{self._clock()} {self._board.stage}",
            f"experts {counts.num_experts_done}/{counts.num_experts}",
            f"merges {counts.num_merges_done}/{counts.num_merges}",
        ]
        if counts.num_failed:
            parts.append(f"failed {counts.num_failed}")
        return ", ".join([*parts, self._left(), *self._tracking_trouble()])

    def _panel(self) -> RenderableType:
        counts = self._counts()
        bars = Progress(TextColumn("  {task.description:8}"), BarColumn(40), MofNCompleteColumn())
        bars.add_task("experts", total=counts.num_experts, completed=counts.num_experts_done)
        bars.add_task("merges", total=counts.num_merges, completed=counts.num_merges_done)
        head = ", ".join([f"{self._clock()} {self._board.stage}", self._left()])
        trials = list(self._board.trials.values())
        lines = [
            f"  {trial.name}  step {trial.step}/{trial.steps}  {_loss(trial.loss)}"
            for trial in trials[:MAX_TRIALS_SHOWN]
        ]
        if len(trials) > MAX_TRIALS_SHOWN:
            lines.append(f"  and {len(trials) - MAX_TRIALS_SHOWN} more trials")
        lines += [f"  {trouble}" for trouble in self._tracking_trouble()]
        return Group(Text(head), bars, Text("\n".join(lines)))

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"[{minutes:02d}:{seconds:02d}]"

    def _left(self) -> str:
        left = self._seconds_left()
        return "time left: not known yet" if left is None else f"about {duration(left)} left"

    def _tracking_trouble(self) -> list[str]:
        state = self._tracking()
        return [] if state == "ok" else [f"MLflow {state}"]


def duration(seconds: float) -> str:
    """Returns a length of time as people say it."""
    if seconds < 90:  # noqa: PLR2004 a minute and a half
        return f"{max(1, round(seconds))} s"
    if seconds < 2 * 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"loss {loss:.3f}"

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
from workers.manifests import Manifest
from workers.progress import PreparationProgress

LINE_EVERY_S = 10.0
"""Between two lines where the output is not a terminal."""
MAX_TRIALS_SHOWN = 8
_MB = 1e6


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
    preparations: dict[str, PreparationProgress] = field(default_factory=dict)
    """Tasks whose images are being made, by the images' id."""
    notes: list[str] = field(default_factory=list)
    """What a user should know, such as failures; each is shown once."""


class Display:
    """Owns the thread that shows a board; use as a context manager."""

    def __init__(
        self,
        board: Board,
        *,
        console: Console,
        counts: Callable[[], Counts] | None,
        seconds_left: Callable[[], float | None],
        tracking: Callable[[], str],
    ) -> None:
        """Shows nothing yet.

        Args:
            board: What is shown.
            console: Where.
            counts: How far experts and merges are; None where none is going to be made.
            seconds_left: Until all of it is; None while nobody knows.
            tracking: `ok`, or what is wrong with MLflow.
        """
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
        parts = [f"{self._clock()} {self._board.stage}", *self._images()]
        if self._counts is not None:
            counts = self._counts()
            parts.append(f"experts {counts.num_experts_done}/{counts.num_experts}")
            parts.append(f"merges {counts.num_merges_done}/{counts.num_merges}")
            if counts.num_failed:
                parts.append(f"failed {counts.num_failed}")
            parts.append(self._left())
        return ", ".join([*parts, *self._tracking_trouble()])

    def _panel(self) -> RenderableType:
        images = Text("\n".join(f"  {line}" for line in self._images()))
        if self._counts is None:
            return Group(Text(f"{self._clock()} {self._board.stage}"), images)
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
        return Group(Text(head), bars, images, Text("\n".join(lines)))

    def _images(self) -> list[str]:
        return [progress_line(each) for each in list(self._board.preparations.values())]

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"[{minutes:02d}:{seconds:02d}]"

    def _left(self) -> str:
        left = self._seconds_left()
        return "time left: not known yet" if left is None else f"about {duration(left)} left"

    def _tracking_trouble(self) -> list[str]:
        state = self._tracking()
        return [] if state == "ok" else [f"MLflow {state}"]


def progress_line(progress: PreparationProgress) -> str:
    """Says how far a task's images are."""
    rate = f", {progress.images_per_s:,.0f} a second" if progress.images_per_s else ""
    return f"{progress.task} {progress.num_done:,} of {progress.num_images:,} images{rate}"


def prepared_line(progress: PreparationProgress, *, manifest: Manifest) -> str:
    """Says that a task's images are made, from the last report of them."""
    num_bytes = sum(file.size_bytes for file in manifest.files)
    took = duration(sum(manifest.seconds.values()))
    return f"prepared {progress_line(progress)}, {num_bytes / _MB:,.1f} MB in {took}"


def duration(seconds: float) -> str:
    """Returns a length of time as people say it."""
    if seconds < 90:  # noqa: PLR2004 a minute and a half
        return f"{max(1, round(seconds))} s"
    if seconds < 2 * 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"loss {loss:.3f}"

"""What a run shows while it goes on: a live panel on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.live import Live

from orchestrator.progress.panel import duration, progress_panel, progress_text
from orchestrator.progress.state import Progress, RunningTrial
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress

LINE_EVERY_S = 10.0
"""Between two lines where the output is not a terminal."""
_MB = 1e6


@dataclass(kw_only=True)
class LiveState:
    """The state that is shown; written by the driver's threads, read by the display's."""

    stage: str = "starting"
    trials: dict[str, RunningTrial] = field(default_factory=dict)
    preparations: dict[str, PreparationProgress] = field(default_factory=dict)
    """Tasks whose images are being made, by the images' id."""
    notes: list[str] = field(default_factory=list)
    """What a user should know, such as failures; each is shown once."""
    failures: list[str] = field(default_factory=list)
    """What failed for good, with the reason."""

    def note_failure(self, text: str) -> None:
        """Shows a failure once, and counts it from then on."""
        self.failures.append(" ".join(text.split()))
        self.notes.append(text)


class Display:
    """Owns the thread that shows a `LiveState`; use as a context manager."""

    def __init__(
        self, state: LiveState, *, console: Console, current: Callable[[], Progress]
    ) -> None:
        """Shows nothing yet.

        Args:
            state: Has the notes.
            console: Where to show.
            current: Returns how far the run is.
        """
        self._state = state
        self._console = console
        self._current = current
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
                    live.update(progress_panel(self._current()))
                    self._print_notes()
        else:
            while not self._closing.wait(0.25):
                self._print_notes()
                if time.monotonic() - self._started >= self._next_line_s:
                    self._next_line_s += LINE_EVERY_S
                    line = progress_text(self._current())
                    self._console.print(line, soft_wrap=True, highlight=False, markup=False)
        self._print_notes()

    _next_line_s = 0.0

    def _print_notes(self) -> None:
        while self._state.notes:
            note = self._state.notes.pop(0)
            self._console.print(note, soft_wrap=True, highlight=False, markup=False)


def progress_line(progress: PreparationProgress) -> str:
    """Says how far a task's images are."""
    rate = f", {progress.images_per_s:,.0f} a second" if progress.images_per_s else ""
    return f"{progress.task} {progress.num_done:,} of {progress.num_images:,} images{rate}"


def prepared_line(progress: PreparationProgress, *, manifest: Manifest) -> str:
    """Says that a task's images are made, from the last report of them."""
    num_bytes = sum(file.size_bytes for file in manifest.files)
    took = duration(sum(manifest.seconds.values()))
    return f"prepared {progress_line(progress)}, {num_bytes / _MB:,.1f} MB in {took}"

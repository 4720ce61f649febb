"""Shows the progress of a run: as a live panel on a terminal, as plain lines elsewhere."""

import threading
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.live import Live

from orchestrator.progress.live_state import LiveState
from orchestrator.progress.panel import progress_panel, progress_text
from orchestrator.progress.say import say
from orchestrator.progress.state import Progress
from orchestrator.progress.view_guard import ViewGuard

LINE_EVERY_S = 10.0
"""Seconds between two lines where the output is not a terminal."""
REFRESH_EVERY_S = 0.25


class Display:
    """A thread that shows the progress of a run, for the length of a `with` block."""

    def __init__(
        self, state: LiveState, *, console: Console, current: Callable[[], Progress]
    ) -> None:
        """Creates a display; it shows nothing before the block begins.

        Args:
            state: Has the notes, each of which is printed once.
            console: The terminal or file to print to.
            current: Returns the present progress.
        """
        self._state = state
        self._console = console
        self._current = current
        self._guard = ViewGuard("the progress display", note=state.notes.append)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._show, name="display", daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the thread, which prints the remaining notes."""
        self._closing.set()
        self._thread.join()

    def _show(self) -> None:
        with self._guard.trying():
            if self._console.is_interactive:
                self._show_panel()
            else:
                self._print_lines()
        while not self._closing.wait(REFRESH_EVERY_S):  # the panel itself has failed
            self._print_notes()
        self._print_notes()

    def _show_panel(self) -> None:
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            while not self._closing.wait(REFRESH_EVERY_S):
                with self._guard.trying():
                    live.update(progress_panel(self._current()))
                self._print_notes()

    def _print_lines(self) -> None:
        next_line_s = time.monotonic()
        while not self._closing.wait(REFRESH_EVERY_S):
            self._print_notes()
            if time.monotonic() >= next_line_s:
                next_line_s += LINE_EVERY_S
                with self._guard.trying():
                    say(self._console, progress_text(self._current()))

    def _print_notes(self) -> None:
        while self._state.notes:
            with self._guard.trying():
                say(self._console, self._state.notes.pop(0))

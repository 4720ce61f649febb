"""Shows at the end of a command how many MLflow runs it still has to send."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from eval.counts import counted
from orchestrator.progress.display import LINE_EVERY_S
from orchestrator.progress.panel import duration
from orchestrator.progress.say import say


@contextmanager
def counting_down(console: Console, *, work: str) -> Iterator[Callable[[int], None]]:
    """Shows the work of a `with` block, on a terminal as a status, elsewhere in lines.

    Args:
        console: Where to show it.
        work: The work, such as `writing tables, report and the last runs to MLflow`.

    Yields:
        A function that takes the number of MLflow runs that are left. It may be called at any rate:
        outside a terminal, it prints a line every ten seconds.
    """
    if console.is_terminal:
        with console.status(work) as status:
            yield Countdown(lambda left: status.update(f"{work}: {left}"), every_s=0).show
    else:
        say(console, work)
        yield Countdown(lambda left: say(console, left), every_s=LINE_EVERY_S).show


class Countdown:
    """Says how many MLflow runs are left, and how long they take at the speed so far."""

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a countdown that has said nothing.

        Args:
            tell: Takes a text.
            every_s: The least time between two texts, and before the first one, in seconds.
            clock: Returns seconds from any origin.
        """
        self._tell = tell
        self._every_s = every_s
        self._clock = clock
        self._told_s = clock()
        self._first: tuple[int, float] | None = None
        """The first number left, and its time."""

    def show(self, num_left: int) -> None:
        """Tells the number, unless it is 0 or the last text is too recent."""
        now_s = self._clock()
        num_first, first_s = self._first = self._first or (num_left, now_s)
        if num_left == 0 or now_s - self._told_s < self._every_s:
            return
        self._told_s = now_s
        text = f"{counted(num_left, 'MLflow run')} left to send"
        if (num_sent := num_first - num_left) > 0:
            text += f", about {duration((now_s - first_s) / num_sent * num_left)}"
        self._tell(text)

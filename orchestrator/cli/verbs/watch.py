"""Watches a study from any machine: by what its driver leaves in the store, and by the cluster."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cli.verbs.status import show_status
from orchestrator.cluster.submission import ClusterAccessError, Submission, Submissions, newest_of
from orchestrator.lease.holder import Holder, newest_holder, this_machine
from orchestrator.lease.lease import STALE_AFTER_S
from orchestrator.progress.panel import duration, progress_panel, progress_text
from orchestrator.progress.say import say
from orchestrator.progress.state import Progress, read_progress
from orchestrator.run.opened import open_by_name
from workers.store.opening import open_store
from workers.store.protocol import Store

LOOK_EVERY_S = 5.0
"""As often as a driver writes."""
LOOKS_A_LINE = 2
"""Between two lines where the output is not a terminal: ten seconds, as in a run."""


@dataclass(frozen=True, kw_only=True)
class StudyActivity:
    """What there is to see of a study at one time."""

    holder: Holder
    progress: Progress | None
    """What the holder has left; None before its first word."""
    submission: Submission | None
    """The cluster's last one; None if it has none, or was not asked."""
    silent_s: float
    """How long the holder's heartbeat has stood still, by this machine's clock."""

    @property
    def is_held(self) -> bool:
        """Tells whether a driver holds the study, or seems to."""
        return not self.holder.is_gone(machine=this_machine())

    @property
    def is_running(self) -> bool:
        """Tells whether anybody works on the study, or is about to."""
        is_alive = self.is_held and self.silent_s <= STALE_AFTER_S
        return is_alive or (self.submission is not None and not self.submission.is_over)

    def head(self) -> str:
        """Says who works on the study."""
        parts = []
        if self.submission is not None and not self.submission.is_over:
            parts.append(f"{self.submission.id} {self.submission.state}")
        if self.is_held:
            heard = (
                ""
                if self.silent_s < 2 * LOOK_EVERY_S
                else f", silent for {duration(self.silent_s)}"
            )
            parts.append(f"{self.holder.who}{heard}")
        return ", ".join(parts)


class StudyWatch:
    """Looks at a study again and again; reads alone."""

    def __init__(
        self,
        store: Store,
        study: str,
        *,
        submissions: Submissions | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._study = study
        self._submissions = submissions
        self._clock = clock
        self._last: Holder | None = None
        self._heard_s = clock()

    def look(self) -> StudyActivity:
        """Returns what there is to see now.

        A cluster that answered once and no longer does is left out: the store tells the rest.

        Raises:
            StoreError: The store cannot be read.
            ClusterAccessError: The cluster does not answer the first time.
        """
        holder = newest_holder(self._store, self._study)
        submission = self._find_submission(is_first=self._last is None)
        if self._last is None or holder.is_alive_since(self._last):
            self._heard_s = self._clock()
        self._last = holder
        return StudyActivity(
            holder=holder,
            progress=read_progress(self._store, self._study, generation=holder.generation),
            submission=submission,
            silent_s=self._clock() - self._heard_s,
        )

    def _find_submission(self, *, is_first: bool) -> Submission | None:
        if self._submissions is None:
            return None
        try:
            return newest_of(self._submissions.find_all(), study=self._study)
        except ClusterAccessError:
            if is_first:
                raise
            return None


def watch_study(
    name: str,
    *,
    store_url: str,
    submissions: Submissions | None,
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Shows how far a study is until nobody works on it, and then its status; the exit code's too.

    Args:
        name: The study.
        store_url: Where it is; nothing is written there.
        submissions: Those of the cluster that was asked, if one was.
        console: A panel on a terminal, lines elsewhere.
        sleep: Waits.

    Raises:
        StudyNotFoundError: The store holds no study of this name, and no submission of it runs.
        StoreError, ClusterAccessError: What is asked does not answer.
    """
    watch = StudyWatch(open_store(store_url), name, submissions=submissions)
    last = watch.look()
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                while last.is_running:
                    live.update(_panel(name, last), refresh=True)
                    sleep(LOOK_EVERY_S)
                    last = watch.look()
        else:
            for number in itertools.count():
                if not last.is_running:
                    break
                if number % LOOKS_A_LINE == 0:
                    say(console, f"{name}: {_line(last)}")
                sleep(LOOK_EVERY_S)
                last = watch.look()
    except KeyboardInterrupt:
        return INTERRUPTED
    return _show_end(name, last, store_url=store_url, console=console)


def show_now(activity: StudyActivity, *, console: Console) -> None:
    """Prints who works on a study and what they are at; nothing if nobody does."""
    if activity.is_running:
        say(console, f"at work: {_line(activity)}")
    elif activity.submission is not None:
        say(console, f"{activity.submission.id} has ended: {activity.submission.state}")


def _show_end(name: str, last: StudyActivity, *, store_url: str, console: Console) -> int:
    if last.is_held:
        say(console, f"{last.holder}: its driver seems dead; running the study again goes on")
    elif last.submission is not None:
        say(console, f"{last.submission.id} has ended: {last.submission.state}")
    code = show_status(open_by_name(name, store_url=store_url, is_read_only=True), console=console)
    return FAILED if last.is_held and code == DONE else code


def _line(activity: StudyActivity) -> str:
    if activity.progress is None or not activity.is_held:
        return f"{activity.head()}, nothing told yet"
    return f"{progress_text(activity.progress)} ({activity.head()})"


def _panel(name: str, activity: StudyActivity) -> RenderableType:
    head = Text(f"{name}: {activity.head()}")
    if activity.progress is None or not activity.is_held:
        return head
    return Group(head, progress_panel(activity.progress))

"""`mergesweep watch`: show the progress of a study until nobody works on it."""

import itertools
import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live

from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cli.standard_streams import has_reader
from orchestrator.cli.study_watch import LOOK_EVERY_S, StudyActivity, StudyWatch
from orchestrator.cli.verbs.status import show_status
from orchestrator.cluster.submission import Submissions
from orchestrator.progress.panel import progress_panel
from orchestrator.progress.say import say
from orchestrator.run.opened import open_by_name
from workers.store.opening import open_store

LOOKS_PER_LINE = 2
"""Where the output is not a terminal, every second look prints a line: every ten seconds, as in a
run."""


def watch_study(
    name: str,
    *,
    store_url: str,
    submissions: Submissions | None,
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Follows a study until nobody works on it, then prints its status; returns its exit code.

    Args:
        name: The study's name.
        store_url: The store that has the study; nothing is written to it.
        submissions: The submissions of the cluster to ask; None to ask no cluster.
        console: Shows a panel on a terminal, lines elsewhere.
        sleep: Waits between two looks.

    Raises:
        StudyNotFoundError: The store has no study of this name, and no submission of it runs.
        StoreError: The store cannot be read.
        ClusterAccessError: The cluster does not answer.
    """
    watch = StudyWatch(open_store(store_url), name, submissions=submissions)
    try:
        last = _follow(name, watch, console=console, sleep=sleep)
    except KeyboardInterrupt:
        return INTERRUPTED
    return _show_end(name, last, store_url=store_url, console=console)


def _follow(
    name: str, watch: StudyWatch, *, console: Console, sleep: Callable[[float], None]
) -> StudyActivity:
    """Shows the activity until it ends; returns the last look."""
    last = watch.look()
    if console.is_interactive:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while last.is_running and has_reader():
                live.update(_panel(name, last), refresh=True)
                sleep(LOOK_EVERY_S)
                last = watch.look()
        return last
    for number in itertools.count():
        if not last.is_running or not has_reader():
            break
        if number % LOOKS_PER_LINE == 0:
            say(console, f"{name}: {last.line()}")
        sleep(LOOK_EVERY_S)
        last = watch.look()
    return last


def _show_end(name: str, last: StudyActivity, *, store_url: str, console: Console) -> int:
    if last.is_held:
        say(console, f"{last.holder}: its driver seems dead; running the study again goes on")
    elif last.submission is not None:
        say(console, f"{last.submission.id} has ended: {last.submission.state}")
    opened = open_by_name(name, store_url=store_url, is_read_only=True)
    code = show_status(opened, console=console, is_running=last.is_running)
    return FAILED if last.is_held and code == DONE else code


def _panel(name: str, activity: StudyActivity) -> RenderableType:
    head = f"{name}: {activity.workers()}"
    if activity.progress is None or not activity.is_held:
        return head
    return Group(head, progress_panel(activity.progress))

"""Looks at a study from any machine: at its lease, its published progress and its submissions."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.cluster.submission import ClusterAccessError, Submission, Submissions, newest_of
from orchestrator.lease.holder import Holder, newest_holder, this_machine
from orchestrator.lease.lease import STALE_AFTER_S
from orchestrator.progress.panel import duration, progress_text
from orchestrator.progress.state import Progress, read_progress
from workers.store.protocol import Store

LOOK_EVERY_S = 5.0
"""Seconds between two looks; a driver writes its progress as often."""


@dataclass(frozen=True, kw_only=True)
class StudyActivity:
    """The work on a study at one time, as seen from outside."""

    holder: Holder
    progress: Progress | None
    """The progress that the holder has published; None before its first report."""
    submission: Submission | None
    """The cluster's newest submission; None if there is none, or if no cluster was asked."""
    silent_s: float
    """Time since the holder's heartbeat last changed, by this machine's clock."""

    @property
    def is_held(self) -> bool:
        """Returns whether a driver holds the study, or seems to."""
        return not self.holder.is_gone(machine=this_machine())

    @property
    def is_running(self) -> bool:
        """Returns whether a driver runs the study, or a submission is about to run it."""
        is_alive = self.is_held and self.silent_s <= STALE_AFTER_S
        return is_alive or (self.submission is not None and not self.submission.is_over)

    def workers(self) -> str:
        """Returns the submission and the driver that work on the study."""
        parts = []
        if self.submission is not None and not self.submission.is_over:
            parts.append(f"{self.submission.id} {self.submission.state}")
        if self.is_held:
            is_silent = self.silent_s >= 2 * LOOK_EVERY_S
            silence = f", silent for {duration(self.silent_s)}" if is_silent else ""
            parts.append(f"{self.holder.who}{silence}")
        return ", ".join(parts)

    def line(self) -> str:
        """Returns progress and workers in one line."""
        if self.progress is None or not self.is_held:
            return f"{self.workers()}, no progress reported yet"
        return f"{progress_text(self.progress)} ({self.workers()})"


class StudyWatch:
    """Looks at a study again and again. It only reads."""

    def __init__(
        self,
        store: Store,
        study: str,
        *,
        submissions: Submissions | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a watch.

        Args:
            store: The store that has the study.
            study: The study's name.
            submissions: The cluster's submissions; None to ask no cluster.
            clock: Measures how long the heartbeat has not changed.
        """
        self._store = store
        self._study = study
        self._submissions = submissions
        self._clock = clock
        self._last: Holder | None = None
        self._heard_s = clock()

    def look(self) -> StudyActivity:
        """Returns the present activity.

        If the cluster answered once and no longer does, the store alone is used.

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

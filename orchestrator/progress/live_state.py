"""Holds the parts of a run's state that change all the time: running trials, notes, failures."""

import statistics
from collections import deque
from dataclasses import dataclass, field

from orchestrator.progress.state import RunningTrial
from workers.prepare.progress import PreparationProgress

MAX_EXTRA = 101
"""The number of trials whose extra seconds are kept."""


@dataclass(kw_only=True)
class LiveState:
    """The changing state of a run; the driver's threads write it, the display's thread reads it."""

    stage: str = "starting"
    trials: dict[str, RunningTrial] = field(default_factory=dict)
    """The running trials, by id."""
    preparations: dict[str, PreparationProgress] = field(default_factory=dict)
    """The tasks whose images are being prepared, by the images' id."""
    notes: list[str] = field(default_factory=list)
    """Messages for the user, such as failures; the display prints each once and removes it."""
    failures: list[str] = field(default_factory=list)
    """The trials and jobs that failed for good, a line each with the reason."""

    extra_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_EXTRA))
    """Seconds that each of the last trials held its worker beyond the work in its manifests."""

    def extra_seconds_per_trial(self) -> float:
        """Returns the median of `extra_s`, 0 before the first trial has ended."""
        return statistics.median(self.extra_s.copy() or [0.0])

    def note_failure(self, text: str) -> None:
        """Adds a final failure to the notes and to the failures."""
        self.failures.append(" ".join(text.split()))
        self.notes.append(text)

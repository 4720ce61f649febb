"""Defines the progress of a run, which its driver publishes to the store for watchers."""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.lease.holder import find_object, progress_key
from orchestrator.progress.view_guard import ViewGuard
from workers.store.protocol import Store

_log = logging.getLogger(__name__)

PUBLISH_EVERY_S = 5.0
"""Seconds between two writes to the store, as between two heartbeats."""
THROUGHPUT_OVER_S = 300.0
"""The time span of measured speeds, in seconds."""
MAX_LISTED = 50
"""The number of running trials and of failures that a published progress lists; it counts all."""
_LAST_WRITE_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The number of planned artifacts or table entries of one name, and how many are done."""

    name: str
    num_done: int
    num_planned: int


@dataclass(frozen=True, kw_only=True)
class RunningTrial:
    """A trial that a worker holds."""

    name: str
    step: int
    steps: int
    loss: float | None
    steps_per_s: float | None = None
    """Measured from its first report in this run; None before the second report."""


@dataclass(frozen=True, kw_only=True)
class InUse:
    """The part of a cluster's cores or GPUs that is allocated to workers."""

    name: str
    used: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run at one time. Its field names are those of the stored JSON."""

    elapsed_s: float
    """Seconds since this run began."""
    stage: str
    stages: tuple[Tally, ...]
    """Tallies of bases, images, experts and merges, as far as the command makes them."""
    axes: tuple[Tally, ...]
    """A tally for each axis, of the entries of the result table."""
    trials: tuple[RunningTrial, ...]
    num_trials: int
    """The number of running trials; `trials` lists at most `MAX_LISTED`."""
    images: tuple[str, ...]
    """A line for each task whose images are being prepared."""
    failures: tuple[str, ...]
    """The last trials and jobs that failed for good in this run, a line each with the reason."""
    num_failures: int
    per_minute: Mapping[str, float]
    """Artifacts made per minute, by stage, over the last minutes; empty at the beginning."""
    in_use: tuple[InUse, ...]
    """Cores, and GPUs if the cluster has any. It shows what is allocated, not how busy it is."""
    seconds_left: float | None
    tracking: str
    """`ok`, or the trouble with MLflow."""
    sharing: str = ""
    """Fair share: the other studies on the cluster and this one's slots; empty if alone."""

    def tally(self, name: str) -> Tally | None:
        """Returns a stage's tally, None if the command has no such stage."""
        return next((each for each in self.stages if each.name == name), None)

    @property
    def steps_per_s(self) -> float:
        """Returns the summed speed of the listed trials; an unmeasured speed counts as 0."""
        return sum(trial.steps_per_s or 0 for trial in self.trials)


class Throughput:
    """Measures how many artifacts of each stage are made per minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def per_minute(self, stages: tuple[Tally, ...], *, at_s: float) -> dict[str, float]:
        """Records the tallies and returns speeds over the last `THROUGHPUT_OVER_S`.

        Args:
            stages: The present tallies.
            at_s: The time of the tallies; never decreases from call to call.
        """
        done = {each.name: each.num_done for each in stages}
        if not self._seen or done != self._seen[-1][1]:
            self._seen.append((at_s, done))
        while len(self._seen) > 1 and self._seen[0][0] < at_s - THROUGHPUT_OVER_S:
            self._seen.popleft()
        then_s, then = self._seen[0]
        if at_s <= then_s:
            return {}
        minutes = (at_s - then_s) / 60
        speeds = {name: (num - then.get(name, 0)) / minutes for name, num in done.items()}
        return {name: speed for name, speed in speeds.items() if speed > 0}


@contextmanager
def publishing_progress(
    current: Callable[[], Progress],
    *,
    write: Callable[[bytes], None],
    every_s: float = PUBLISH_EVERY_S,
) -> Iterator[None]:
    """Writes the progress of a run every few seconds, and at the end of the `with` block.

    Args:
        current: Returns the present progress.
        write: Writes it as JSON; called from a thread of its own, as the store may be slow.
        every_s: Seconds between two writes.
    """
    closing = threading.Event()
    guard = ViewGuard("the progress for `mergesweep watch`", note=_log.warning)

    def run() -> None:
        is_last = False
        while not is_last:
            is_last = closing.wait(every_s)
            with guard.trying():
                write(progress_json(current()))

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join(_LAST_WRITE_TIMEOUT_S)


def read_progress(store: Store, study: str, *, generation: int) -> Progress | None:
    """Returns the progress that a holder of a study has published, None if missing or garbled.

    Raises:
        StoreError: The store cannot be read.
    """
    return parse_progress(find_object(store, progress_key(study, generation)))


def progress_json(progress: Progress) -> bytes:
    """Returns a progress as JSON."""
    return (json.dumps(asdict(progress), indent=1) + "\n").encode()


def parse_progress(content: bytes | None) -> Progress | None:
    """Parses the JSON of a progress; returns None if the content is missing or garbled.

    Control characters in its texts become spaces, as the texts are printed on terminals.
    """
    try:
        return _ADAPTER.validate_python(_printable(json.loads(content or b"")))
    except (ValueError, RecursionError, ValidationError):
        return None


_ADAPTER = TypeAdapter(Progress)


def _printable(value: Any) -> Any:  # noqa: ANN401 any JSON value
    """Returns a JSON value with spaces in place of control characters."""
    if isinstance(value, str):
        return "".join(each if each.isprintable() else " " for each in value)
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(each) for name, each in value.items()}
    return value

"""How far a run is: shown where it runs, and left in the store for whoever watches elsewhere."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.lease.holder import find_object, progress_key
from workers.store.protocol import Store

PUBLISH_EVERY_S = 5.0
"""Between two writes to the store, as between two heartbeats."""
THROUGHPUT_OVER_S = 300.0
"""The time over which speeds are measured."""
MAX_LISTED = 50
"""Running trials and failures that are left in the store; all are counted."""
_LAST_WRITE_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How much of something there is."""

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
    """Since it was first heard of; None before its second report."""


@dataclass(frozen=True, kw_only=True)
class InUse:
    """What workers hold of a cluster's resource: cores or GPUs."""

    name: str
    used: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, at one time."""

    elapsed_s: float
    """Since this run began."""
    stage: str
    stages: tuple[Tally, ...]
    """Bases, images, experts and merges, as far as the command makes them."""
    axes: tuple[Tally, ...]
    """Entries of the result table, by axis."""
    trials: tuple[RunningTrial, ...]
    num_trials: int
    """All that run; `trials` has the first of them."""
    images: tuple[str, ...]
    """Tasks whose images are being made, a line each."""
    failures: tuple[str, ...]
    """What failed for good in this run, the last of them, with the reason."""
    num_failures: int
    per_minute: Mapping[str, float]
    """Experts and merges in the last minutes; empty while too few are known."""
    in_use: tuple[InUse, ...]
    """Cores, and GPUs where the cluster has any; what workers were given, not how busy it is."""
    seconds_left: float | None
    tracking: str
    """`ok`, or what is wrong with MLflow."""
    sharing: str = ""
    """Which other studies are on the cluster, and what this one may use of it; empty if alone."""

    def tally(self, name: str) -> Tally | None:
        """Returns a stage's tally, None if the command has no such stage."""
        return next((each for each in self.stages if each.name == name), None)

    @property
    def steps_per_s(self) -> float:
        """Optimizer steps of the trials that are shown, as far as their speed is known."""
        return sum(trial.steps_per_s or 0 for trial in self.trials)


class Throughput:
    """Measures how many of each stage are made in a minute, over `THROUGHPUT_OVER_S`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def per_minute(self, stages: tuple[Tally, ...], *, at_s: float) -> dict[str, float]:
        """Notes what is done by now, and returns the speeds; call it with growing times."""
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
    """Hands over how far a run is, now and then and at the end of a `with` block.

    Args:
        current: Returns how far it is.
        write: Writes that somewhere; called from a thread of its own, which may have to wait.
        every_s: Between two calls.
    """
    closing = threading.Event()

    def run() -> None:
        is_last = False
        while not is_last:
            is_last = closing.wait(every_s)
            write(to_json(current()))

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join(_LAST_WRITE_TIMEOUT_S)


def read_progress(store: Store, study: str, *, generation: int) -> Progress | None:
    """Returns what a holder of a study has left, None if that is missing or garbled.

    Raises:
        StoreError: The store cannot be read.
    """
    return parse(find_object(store, progress_key(study, generation)))


def to_json(progress: Progress) -> bytes:
    """Returns the bytes that are stored."""
    return (json.dumps(asdict(progress), indent=1) + "\n").encode()


def parse(content: bytes | None) -> Progress | None:
    """Returns what the bytes say, None if they say nothing; texts without control characters."""
    try:
        return _ADAPTER.validate_python(_printable(json.loads(content or b"")))
    except (ValueError, RecursionError, ValidationError):
        return None


_ADAPTER = TypeAdapter(Progress)


def _printable(value: Any) -> Any:  # noqa: ANN401 whatever JSON has
    """Returns a value whose texts do not steer a terminal."""
    if isinstance(value, str):
        return "".join(each if each.isprintable() else " " for each in value)
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {_printable(name): _printable(each) for name, each in value.items()}
    return value

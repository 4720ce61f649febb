"""Queues the MLflow runs that wait to be published, and decides which is next and when."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import Message, Settled, StateChanged

MAX_WAIT_S = 30.0
_NUM_FLUSH_ROUNDS = 2  # a lost reply looks like a refusal, so each MLflow run gets a second try
_NUM_CHECKS = 2  # servers close connections after idling or an error, which breaks the next call


class Experiment(Protocol):
    """The part of MLflow that the backlog uses; any exception means that a call failed."""

    def check(self) -> None:
        """Raises if the server does not answer."""

    def publish(self, run: MlflowRun) -> bool:
        """Writes an MLflow run to the server; returns False if the server already has it."""


@dataclass(frozen=True, kw_only=True)
class _Refused:
    """An MLflow run that the server has refused, and that waits for its next try."""

    run: MlflowRun
    num_refusals: int
    not_before_s: float


class Backlog:
    """The queue of MLflow runs, published one at a time in order of arrival until all succeed.

    A failed MLflow run is retried with growing waits, when no other one waits for its first try.
    After a failure, a second call that changes nothing tells why: if the server answers it, the
    server has refused the MLflow run, and only that one waits; otherwise the server is down, and
    all of them wait. Status codes do not tell the two apart: an exhausted connection pool is
    reported as a bad request. The time to choose the next one does not grow with the queue.
    """

    def __init__(
        self,
        *,
        open_experiment: Callable[[], Experiment],
        reply: Callable[[Message], None],
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        """Creates an empty backlog.

        Args:
            open_experiment: Connects to MLflow; called again after it failed.
            reply: Sends a message to the driver.
            clock: Seconds, from any origin.
            jitter: Random numbers in [0, 1).
        """
        self._open_experiment = open_experiment
        self._experiment: Experiment | None = None
        self._reply = reply
        self._clock = clock
        self._jitter = jitter
        self._waiting: dict[str, MlflowRun] = {}
        """MLflow runs that were never refused, by key, in order of arrival."""
        self._refused: dict[str, _Refused] = {}
        self._retries: list[tuple[float, str]] = []
        """A heap of times and keys. An entry counts if the key is refused until that time."""
        self._reasons: dict[str, str] = {}
        """The reasons for which the server refused MLflow runs that it still lacks, by key."""
        self._num_outages = 0
        self._down_until_s = 0.0
        self._state = ""

    def add(self, run: MlflowRun) -> None:
        """Adds an MLflow run; replaces a waiting one with the same key."""
        self._refused.pop(run.key, None)
        self._waiting[run.key] = run

    def wait_s(self) -> float | None:
        """Returns the seconds until the next MLflow run is due; None if none waits."""
        if self._waiting:
            due_s = self._down_until_s
        elif (first := self._first_retry()) is not None:
            due_s = max(first.not_before_s, self._down_until_s)
        else:
            return None
        return max(0.0, due_s - self._clock())

    def step(self) -> None:
        """Publishes the first MLflow run that is due, or its parent; call it when `wait_s` is 0."""
        now_s = self._clock()
        if now_s < self._down_until_s:
            return
        if self._waiting:
            self._publish(self._parent_first(next(iter(self._waiting.values()))))
        elif (first := self._first_retry()) is not None and first.not_before_s <= now_s:
            self._publish(self._parent_first(first.run))

    def flush(self) -> None:
        """Publishes all MLflow runs, due or not, until the server does not answer.

        Refused MLflow runs get a second try.
        """
        for _ in range(_NUM_FLUSH_ROUNDS):
            if not self._flush_round():
                return

    def _flush_round(self) -> bool:
        """Tries every MLflow run once; returns whether the server answered all calls."""
        tried: set[str] = set()
        for run in [*self._waiting.values(), *(each.run for each in self._refused.values())]:
            while run.key not in tried and (run.key in self._waiting or run.key in self._refused):
                first = self._parent_first(run)
                tried.add(first.key)
                if not self._publish(first):
                    return False
        return True

    def _first_retry(self) -> _Refused | None:
        """Returns the refused MLflow run that is due first; removes entries that do not count."""
        while self._retries:
            not_before_s, key = self._retries[0]
            refused = self._refused.get(key)
            if refused is not None and refused.not_before_s == not_before_s:
                return refused
            heapq.heappop(self._retries)
        return None

    def _parent_first(self, run: MlflowRun) -> MlflowRun:
        """Returns the parent if it waits too and was never refused, else the MLflow run itself."""
        return self._waiting.get(run.parent_key or "", run)

    def _publish(self, run: MlflowRun) -> bool:
        """Publishes one MLflow run; returns whether the server answered, even with a refusal."""
        try:
            if self._experiment is None:
                self._experiment = self._open_experiment()
            written = self._experiment.publish(run)
        except Exception as error:  # noqa: BLE001 the MLflow run is kept after any error
            return self._note_failure(run, error=error)
        self._num_outages = 0
        self._waiting.pop(run.key, None)
        self._refused.pop(run.key, None)
        self._reasons.pop(run.key, None)
        self._reply(
            Settled(key=run.key, digest=run.digest, outcome="published" if written else "unchanged")
        )
        self._set_state(self._summary())
        return True

    def _note_failure(self, run: MlflowRun, *, error: Exception) -> bool:
        outage = self._outage(error)
        if outage is not None:
            self._num_outages += 1
            self._down_until_s = self._clock() + self._pause_s(self._num_outages)
            self._set_state(f"unreachable: {_first_line(outage)}")
            return False
        self._refuse(run)
        self._reasons[run.key] = _first_line(error)
        self._set_state(self._summary())
        return True

    def _refuse(self, run: MlflowRun) -> None:
        """Puts off the next try of an MLflow run, longer each time."""
        self._waiting.pop(run.key, None)
        before = self._refused.pop(run.key, None)
        num_refusals = before.num_refusals + 1 if before else 1
        not_before_s = self._clock() + self._pause_s(num_refusals)
        self._refused[run.key] = _Refused(
            run=run, num_refusals=num_refusals, not_before_s=not_before_s
        )
        heapq.heappush(self._retries, (not_before_s, run.key))

    def _summary(self) -> str:
        """Returns the state to show: refused MLflow runs are named for as long as they wait."""
        if not self._reasons:
            return "ok"
        key, reason = next(iter(self._reasons.items()))
        others = len(self._reasons) - 1
        return f"refused: {key}: {reason}" + (f" (and {others} more)" if others else "")

    def _outage(self, error: Exception) -> Exception | None:
        """Returns the error of a server that does not answer; None if the server answers."""
        if self._experiment is None:
            return error
        outage: Exception | None = None
        for _ in range(_NUM_CHECKS):
            try:
                self._experiment.check()
            except Exception as failed:  # noqa: BLE001 any error means no answer
                outage = failed
            else:
                return None
        return outage

    def _pause_s(self, num_failures: int) -> float:
        """Returns a wait that doubles from 1 s; half of it is random, to spread several studies."""
        longest_s = min(MAX_WAIT_S, 2.0 ** (num_failures - 1))
        return longest_s * (0.5 + 0.5 * self._jitter())

    def _set_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._reply(StateChanged(state=state))


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's message, which may hold a whole HTTP reply."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"

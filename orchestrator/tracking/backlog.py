"""Queues the MLflow runs that wait to be published, and decides which is next and when."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
class _Waiting:
    run: MlflowRun
    num_refusals: int = 0
    not_before_s: float = 0.0


class Backlog:
    """The queue of MLflow runs, published one at a time in order of arrival until all succeed.

    A failed MLflow run is retried with growing waits. After a failure, a second call that changes
    nothing tells why: if the server answers it, the server has refused the MLflow run, and only
    that one waits; otherwise the server is down, and all of them wait. Status codes do not tell
    the two apart: an exhausted connection pool is reported as a bad request.
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
        self._waiting: dict[str, _Waiting] = {}
        self._refused: dict[str, str] = {}
        self._num_outages = 0
        self._down_until_s = 0.0
        self._state = ""

    def add(self, run: MlflowRun) -> None:
        """Adds an MLflow run; replaces a waiting one with the same key."""
        self._waiting[run.key] = _Waiting(run=run)

    def wait_s(self) -> float | None:
        """Returns the seconds until the next MLflow run is due; None if none waits."""
        if not self._waiting:
            return None
        soonest = min(waiting.not_before_s for waiting in self._waiting.values())
        return max(0.0, max(soonest, self._down_until_s) - self._clock())

    def step(self) -> None:
        """Publishes the first MLflow run that is due, or its parent; call it when `wait_s` is 0."""
        now_s = self._clock()
        due = (w for w in self._waiting.values() if w.not_before_s <= now_s)
        first = next(due, None)
        if first is not None and now_s >= self._down_until_s:
            self._publish(self._parent_first(first))

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
        for key in [*self._waiting]:
            while key in self._waiting and key not in tried:
                parent = self._parent_first(self._waiting[key])
                tried.add(parent.run.key)
                if not self._publish(parent):
                    return False
        return True

    def _parent_first(self, waiting: _Waiting) -> _Waiting:
        """Returns the parent if it waits too and was never refused, else the MLflow run itself."""
        parent = self._waiting.get(waiting.run.parent_key or "")
        return parent if parent and not parent.num_refusals else waiting

    def _publish(self, waiting: _Waiting) -> bool:
        """Publishes one MLflow run; returns whether the server answered, even with a refusal."""
        run = waiting.run
        try:
            if self._experiment is None:
                self._experiment = self._open_experiment()
            written = self._experiment.publish(run)
        except Exception as error:  # noqa: BLE001 the MLflow run is kept after any error
            return self._note_failure(waiting, error=error)
        self._num_outages = 0
        del self._waiting[run.key]
        self._refused.pop(run.key, None)
        self._reply(
            Settled(key=run.key, digest=run.digest, outcome="published" if written else "unchanged")
        )
        self._set_state(self._summary())
        return True

    def _note_failure(self, waiting: _Waiting, *, error: Exception) -> bool:
        outage = self._outage(error)
        if outage is not None:
            self._num_outages += 1
            self._down_until_s = self._clock() + self._pause_s(self._num_outages)
            self._set_state(f"unreachable: {_first_line(outage)}")
            return False
        key, num_refusals = waiting.run.key, waiting.num_refusals + 1
        del self._waiting[key]  # moves it to the end of the queue
        self._waiting[key] = replace(
            waiting,
            num_refusals=num_refusals,
            not_before_s=self._clock() + self._pause_s(num_refusals),
        )
        self._refused[key] = _first_line(error)
        self._set_state(self._summary())
        return True

    def _summary(self) -> str:
        """Returns the state to show: refused MLflow runs are named for as long as they wait."""
        if not self._refused:
            return "ok"
        key, reason = next(iter(self._refused.items()))
        others = len(self._refused) - 1
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

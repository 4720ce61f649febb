"""The runs that wait to be published, which of them is next, and when."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import Message, Settled, StateChanged

MAX_WAIT_S = 30.0
_NUM_FLUSH_ROUNDS = 2  # a reply that was lost by chance looks like a refusal
_NUM_CHECKS = 2  # servers close connections that idled or that met an error; the next call breaks


class Experiment(Protocol):
    """Where runs go: all that the backlog knows of MLflow. Any exception is a failed call."""

    def check(self) -> None:
        """Raises if the server does not answer."""

    def publish(self, run: MlflowRun) -> bool:
        """Makes the server hold the run; False if it already did."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    run: MlflowRun
    num_refusals: int = 0
    not_before_s: float = 0.0


class Backlog:
    """Publishes runs one at a time, in order of arrival, and never gives one up.

    A failed run is retried with growing waits. Whether all runs wait or this one alone is decided
    by a second, harmless call: a server that answers it has refused the run, one that does not is
    down. (Status codes do not tell: an exhausted connection pool is reported as a bad request.)
    """

    def __init__(
        self,
        *,
        open_experiment: Callable[[], Experiment],
        reply: Callable[[Message], None],
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        """Args: a source of numbers in [0, 1) as `jitter`, seconds as `clock`."""
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
        """Takes a run in; one with the same key that still waits is replaced."""
        self._waiting[run.key] = _Waiting(run=run)

    def wait_s(self) -> float | None:
        """Returns the seconds until there is something to do, or None if nothing waits."""
        if not self._waiting:
            return None
        soonest = min(waiting.not_before_s for waiting in self._waiting.values())
        return max(0.0, max(soonest, self._down_until_s) - self._clock())

    def step(self) -> None:
        """Tries the first run that is due, its parent before it; call it when `wait_s` is 0."""
        now_s = self._clock()
        due = (w for w in self._waiting.values() if w.not_before_s <= now_s)
        first = next(due, None)
        if first is not None and now_s >= self._down_until_s:
            self._try(self._parent_first(first))

    def flush(self) -> None:
        """Tries every run, due or not, until the server fails to answer; refused ones twice."""
        for _ in range(_NUM_FLUSH_ROUNDS):
            if not self._flush_round():
                return

    def _flush_round(self) -> bool:
        """Tries every run once and says whether the server answered to the end."""
        tried: set[str] = set()
        for key in [*self._waiting]:
            while key in self._waiting and key not in tried:
                parent = self._parent_first(self._waiting[key])
                tried.add(parent.run.key)
                if not self._try(parent):
                    return False
        return True

    def _parent_first(self, waiting: _Waiting) -> _Waiting:
        """Returns the run's parent if it waits too and was never refused, else the run itself."""
        parent = self._waiting.get(waiting.run.parent_key or "")
        return parent if parent and not parent.num_refusals else waiting

    def _try(self, waiting: _Waiting) -> bool:
        """Publishes one run and says whether the server answered at all."""
        run = waiting.run
        try:
            if self._experiment is None:
                self._experiment = self._open_experiment()
            written = self._experiment.publish(run)
        except Exception as error:  # noqa: BLE001 whatever the client raises, the run is kept
            return self._keep(waiting, error=error)
        self._num_outages = 0
        del self._waiting[run.key]
        self._refused.pop(run.key, None)
        self._reply(
            Settled(key=run.key, digest=run.digest, outcome="published" if written else "unchanged")
        )
        self._become(self._summary())
        return True

    def _keep(self, waiting: _Waiting, *, error: Exception) -> bool:
        outage = self._outage(error)
        if outage is not None:
            self._num_outages += 1
            self._down_until_s = self._clock() + self._pause_s(self._num_outages)
            self._become(f"unreachable: {_brief(outage)}")
            return False
        key, num_refusals = waiting.run.key, waiting.num_refusals + 1
        del self._waiting[key]  # to the end of the queue
        self._waiting[key] = replace(
            waiting,
            num_refusals=num_refusals,
            not_before_s=self._clock() + self._pause_s(num_refusals),
        )
        self._refused[key] = _brief(error)
        self._become(self._summary())
        return True

    def _summary(self) -> str:
        """Names the refused runs for as long as they wait: others that pass do not hide them."""
        if not self._refused:
            return "ok"
        key, reason = next(iter(self._refused.items()))
        others = len(self._refused) - 1
        return f"refused: {key}: {reason}" + (f" (and {others} more runs)" if others else "")

    def _outage(self, error: Exception) -> Exception | None:
        """Returns why the server does not answer, or None if it does."""
        if self._experiment is None:
            return error
        outage: Exception | None = None
        for _ in range(_NUM_CHECKS):
            try:
                self._experiment.check()
            except Exception as failed:  # noqa: BLE001 whatever the client raises, it is no answer
                outage = failed
            else:
                return None
        return outage

    def _pause_s(self, num_failures: int) -> float:
        """Doubles from 1 s; half of it random, so that several studies do not come in step."""
        longest_s = min(MAX_WAIT_S, 2.0 ** (num_failures - 1))
        return longest_s * (0.5 + 0.5 * self._jitter())

    def _become(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._reply(StateChanged(state=state))


def _brief(error: Exception) -> str:
    """Returns the first line of a message that may carry a whole HTTP reply."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"

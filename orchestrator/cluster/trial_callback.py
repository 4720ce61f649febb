"""Passes on what Ray Tune tells of trials, to a listener that knows nothing of Tune."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from orchestrator.cluster.connection import is_node_lost
from workers.artifacts.manifests import Manifest
from workers.specs.training import Run


class TrialListener(Protocol):
    """Is asked and told about trials; called from the thread that runs the Tuner."""

    def may_start(self, trial_id: str) -> bool:
        """Tells whether a trial may be given to a worker; one that may not is left out."""

    def may_go_on(self) -> bool:
        """Tells whether trials may go on; asked often, and once not they are all stopped."""

    def trial_started(self, trial_id: str) -> None:
        """A worker has begun."""

    def trial_progressed(
        self, trial_id: str, *, step: int, loss: float | None, committed: Sequence[Manifest]
    ) -> None:
        """A worker has reported."""

    def trial_failed(
        self, trial_id: str, *, error: BaseException | None, reason: str, trace: str, is_lost: bool
    ) -> None:
        """A worker has raised `error` or died; `is_lost` when its node was taken away."""

    def trial_paused(self, trial_id: str) -> None:
        """A worker was given back, to which the trial has left a checkpoint; it starts again."""

    def trial_finished(self, trial_id: str) -> None:
        """A worker has committed every snapshot of the trial."""


class NotPickled:
    """Leaves its state out of the file from which Tune could restore; we never restore from it."""

    def __getstate__(self) -> dict[str, object]:
        return {}


class TrialCallback(NotPickled, tune.Callback):
    """Passes events on. What the listener raises, Tune would hold for the fault of a trial."""

    def __init__(self, listener: TrialListener, *, trials: Sequence[Run]) -> None:
        self._listener = listener
        self._trials = trials
        self.error: Exception | None = None
        self.running: list[Trial] = []
        """Those that workers hold, in the order in which they began."""

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 raised again when Tune has stopped
            self.error = self.error or error

    def may_start(self, trial: Trial) -> bool:
        """Asks the listener; after it has raised, nothing may."""
        with self._kept():
            return self._listener.may_start(self._id(trial))
        return False

    def must_stop(self) -> bool:
        """Tells whether the listener wants no trial to go on, or has raised."""
        return self.error is not None or not self._listener.may_go_on()

    def forget(self, trial: Trial) -> None:
        """Notes that a trial runs no longer, or never did; one that is paused is told of later."""
        if trial in self.running:
            self.running.remove(trial)

    def _id(self, trial: Trial) -> str:
        spec: Run = self._trials[trial.config["trial"]]
        return spec.id

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Tells that a worker has begun."""
        del iteration, trials, info
        self.running.append(trial)
        with self._kept():
            self._listener.trial_started(self._id(trial))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Tells how far a trial is, and whether it was paused with this report."""
        del iteration, trials, info
        committed = [Manifest.from_json(each, key=self._id(trial)) for each in result["committed"]]
        with self._kept():
            self._listener.trial_progressed(
                self._id(trial), step=result["step"], loss=result["loss"], committed=committed
            )
            if trial not in self.running:
                self._listener.trial_paused(self._id(trial))

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Tells that a trial has come to its end."""
        del iteration, trials, info
        self.forget(trial)
        with self._kept():
            self._listener.trial_finished(self._id(trial))

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Tells why a trial failed."""
        del iteration, trials, info
        self.forget(trial)
        error, trace = _error_of(trial)
        cause = error.cause if isinstance(error, RayTaskError) else error
        last_line = trace.strip().rpartition("\n")[2]
        with self._kept():
            self._listener.trial_failed(
                self._id(trial),
                error=cause,
                reason=f"{type(cause).__name__}: {cause}" if cause else last_line,
                trace=trace,
                is_lost=is_node_lost(error),
            )


def _error_of(trial: Trial) -> tuple[BaseException | None, str]:
    """Reads what ended a trial, and the worker's traceback, from where Tune leaves them.

    Tune's own readers look in the storage path, where nothing has arrived yet at that time.
    """
    text, pickled = Path(trial.error_file), trial.pickled_error_file
    trace = text.read_text(encoding="utf-8")
    try:
        return (ray.cloudpickle.loads(Path(pickled).read_bytes()) if pickled else None), trace
    except Exception:  # noqa: BLE001 an exception class may do anything when it is rebuilt
        return None, trace

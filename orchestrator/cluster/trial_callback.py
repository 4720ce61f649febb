"""Passes Ray Tune's events on to a listener that knows nothing of Tune."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from orchestrator.cluster.connection import is_node_lost
from orchestrator.cluster.protocol import TrialListener
from workers.artifacts.manifests import Manifest
from workers.specs.training import Training


class NotPickled:
    """A part of Tune's setup whose state is not pickled.

    Tune pickles its parts into a file to restore from; a run never restores from it.
    """

    def __getstate__(self) -> dict[str, object]:
        return {}


class TrialCallback(NotPickled, tune.Callback):
    """A Tune callback that passes events on and keeps the order of the running trials.

    Tune would take an exception of the listener for a failure of the trial. The callback therefore
    keeps the first one in `error`, and `must_stop` ends the trials.
    """

    def __init__(self, listener: TrialListener, *, trials: Sequence[Training]) -> None:
        self._listener = listener
        self._trials = trials
        self.error: Exception | None = None
        self.running: list[Trial] = []
        """The trials that workers hold, in the order in which they began."""

    @contextlib.contextmanager
    def _keeping_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 `run_trials` raises it once Tune has stopped
            self.error = self.error or error

    def may_start(self, trial: Trial) -> bool:
        """Returns the listener's answer; False if the listener raises."""
        with self._keeping_error():
            return self._listener.may_start(self._id(trial))
        return False

    def must_stop(self) -> bool:
        """Returns whether all trials must stop: the listener says so, or has raised."""
        return self.error is not None or not self._listener.may_go_on()

    def forget(self, trial: Trial) -> None:
        """Removes a trial from the running ones, if it is one of them."""
        if trial in self.running:
            self.running.remove(trial)

    def _id(self, trial: Trial) -> str:
        spec: Training = self._trials[trial.config["trial"]]
        return spec.id

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Passes on that a worker has begun a trial."""
        del iteration, trials, info
        self.running.append(trial)
        with self._keeping_error():
            self._listener.trial_started(self._id(trial))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Passes on a report, and that the trial is paused if the scheduler paused it just now."""
        del iteration, trials, info
        committed = [Manifest.from_json(each, key=self._id(trial)) for each in result["committed"]]
        with self._keeping_error():
            self._listener.trial_progressed(
                self._id(trial), step=result["step"], loss=result["loss"], committed=committed
            )
            if trial not in self.running:
                self._listener.trial_paused(self._id(trial))

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Passes on that a trial has ended."""
        del iteration, trials, info
        self.forget(trial)
        with self._keeping_error():
            self._listener.trial_finished(self._id(trial))

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Passes on why a trial failed."""
        del iteration, trials, info
        self.forget(trial)
        error, trace = _error_of(trial)
        cause = error.cause if isinstance(error, RayTaskError) else error
        last_line = trace.strip().rpartition("\n")[2]
        with self._keeping_error():
            self._listener.trial_failed(
                self._id(trial),
                error=cause,
                reason=f"{type(cause).__name__}: {cause}" if cause else last_line,
                trace=trace,
                is_lost=is_node_lost(error),
            )


def _error_of(trial: Trial) -> tuple[BaseException | None, str]:
    """Reads the exception that ended a trial, and the worker's traceback, from Tune's files.

    Tune's own functions look in the storage path, which does not have the files yet at that time.
    """
    text, pickled = Path(trial.error_file), trial.pickled_error_file
    trace = text.read_text(encoding="utf-8")
    try:
        return (ray.cloudpickle.loads(Path(pickled).read_bytes()) if pickled else None), trace
    except Exception:  # noqa: BLE001 unpickling an exception may raise anything
        return None, trace

"""Schedules trials, and pretraining as trials, with Ray Tune.

A class Trainable with actor reuse keeps a process, its device, the base and the images warm from
trial to trial: 11 ms of orchestration a trial where a process per trial costs seconds. Tune's own
state is a view: nothing of it is uploaded and nothing is restored from it.
"""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.search import BasicVariantGenerator

from orchestrator.cluster.session import is_node_lost
from orchestrator.cluster.trial_runner import TrialRunner
from orchestrator.resources import Share
from workers.manifests import Manifest
from workers.specs import Run

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # resume reads the store, never Tune's snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver stops the run itself
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
}
"""What Tune would hand to its actors in a runtime environment, which Ray's agent writes into a log
on every node. Workers have the environment of their node."""


class TrialWatcher(Protocol):
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

    def trial_finished(self, trial_id: str) -> None:
        """A worker has committed every snapshot of the trial."""


class _Unpickled:
    """Leaves its state out of the file from which Tune could restore; we never restore from it."""

    def __getstate__(self) -> dict[str, object]:
        return {}


class _Watch(_Unpickled, tune.Callback):
    """Passes events on. What the watcher raises, Tune would hold for the fault of a trial."""

    def __init__(self, watcher: TrialWatcher, *, trials: Sequence[Run]) -> None:
        self._watcher = watcher
        self._trials = trials
        self.error: Exception | None = None

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 raised again when Tune has stopped
            self.error = self.error or error

    def may_start(self, trial: Trial) -> bool:
        """Asks the watcher; after it has raised, nothing may."""
        with self._kept():
            return self._watcher.may_start(self._id(trial))
        return False

    def must_stop(self) -> bool:
        """Tells whether the watcher wants no trial to go on, or has raised."""
        return self.error is not None or not self._watcher.may_go_on()

    def _id(self, trial: Trial) -> str:
        spec: Run = self._trials[trial.config["trial"]]
        return spec.id

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        del iteration, trials, info
        with self._kept():
            self._watcher.trial_started(self._id(trial))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        del iteration, trials, info
        committed = [Manifest.from_json(each, key=self._id(trial)) for each in result["committed"]]
        with self._kept():
            self._watcher.trial_progressed(
                self._id(trial), step=result["step"], loss=result["loss"], committed=committed
            )

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        del iteration, trials, info
        with self._kept():
            self._watcher.trial_finished(self._id(trial))

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        del iteration, trials, info
        error, trace = _error_of(trial)
        cause = error.cause if isinstance(error, RayTaskError) else error
        last_line = trace.strip().rpartition("\n")[2]
        with self._kept():
            self._watcher.trial_failed(
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


class _Admission(_Unpickled, BasicVariantGenerator):
    """Makes Tune's trials one after another, as places become free, without those left out."""

    def __init__(self, watch: _Watch, *, num_slots: int) -> None:
        super().__init__(max_concurrent=num_slots)
        self._watch = watch

    def next_trial(self) -> Trial | None:
        """Returns the next trial that may start, None if there is none or no place now."""
        while True:
            trial: Trial | None = super().next_trial()  # type: ignore[no-untyped-call]
            if trial is None or self._watch.may_start(trial):
                return trial
            self.on_trial_complete(trial.trial_id)

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: object) -> None:
        """Writes nothing."""


class _StopWhen(_Unpickled, tune.Stopper):
    def __init__(self, stopping: threading.Event, *, watch: _Watch) -> None:
        self._stopping = stopping
        self._watch = watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self._stopping.is_set() or self._watch.must_stop()


def run_trials(
    trials: Sequence[Run],
    *,
    worker: str,
    store_url: str,
    share: Share,
    num_slots: int,
    checkpoint_every_s: float,
    watcher: TrialWatcher,
    stopping: threading.Event,
) -> None:
    """Runs trials to their ends, as many at once as there are slots; returns early when stopping.

    A trial is run only if the watcher lets it start, at the time when there is a place for it. What
    runs when trials are stopped leaves a checkpoint.

    Failures are told to the watcher and never raised: other trials go on. What the watcher itself
    raises stops all trials and is raised here.
    """
    os.environ.update(TUNE_SETTINGS)
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the watcher is told all of it
    watch = _Watch(watcher, trials=trials)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(min(200, 4 * num_slots))
    parameters = {
        "trials": list(trials),
        "worker": worker,
        "store_url": store_url,
        "num_cpus": share.cpu,
        "checkpoint_every_s": checkpoint_every_s,
    }
    trainable = tune.with_resources(
        tune.with_parameters(TrialRunner, **parameters), {"cpu": share.cpu, "gpu": share.gpu}
    )
    with tempfile.TemporaryDirectory(prefix="mergesweep-tune-") as scratch:
        tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                search_alg=_Admission(watch, num_slots=num_slots),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                callbacks=[watch],
                stop=_StopWhen(stopping, watch=watch),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    if watch.error is not None:
        raise watch.error

"""Schedules trials, and pretraining as trials, with Ray Tune.

A class Trainable with actor reuse keeps a process, its device, the base and the images warm from
trial to trial: 11 ms of orchestration a trial where a process per trial costs seconds. Tune's own
state is a view: nothing of it is uploaded and nothing is restored from it.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from orchestrator.cluster.admission import AdmittingSearch, PausingScheduler
from orchestrator.cluster.trial_callback import NotPickled, TrialCallback, TrialListener
from orchestrator.cluster.trial_runner import TrialRunner
from orchestrator.study.resources import Share
from workers.specs.training import Run

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial that nobody reads
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # resume reads the store, never Tune's snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver stops the run itself
    "TUNE_MAX_PENDING_TRIALS_PG": "200",  # a bound on requests to Ray where slots are thousands
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


class _StopWhen(NotPickled, tune.Stopper):
    def __init__(self, stopping: threading.Event, *, callback: TrialCallback) -> None:
        self._stopping = stopping
        self._callback = callback

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self._stopping.is_set() or self._callback.must_stop()


def run_trials(
    trials: Sequence[Run],
    *,
    worker: str,
    store_url: str,
    share: Share,
    num_slots: Callable[[], int],
    checkpoint_every_s: float,
    listener: TrialListener,
    stopping: threading.Event,
) -> None:
    """Runs trials to their ends, as many at once as there are slots.

    Returns early when stopping, and when there is no slot left and no trial was begun that is not
    at its end: what is left may be run again.

    A trial starts only if the listener allows it at the time when a slot is free. A trial that is
    stopped, or paused because there are fewer slots, leaves a checkpoint; a paused trial goes on
    when there are more slots.

    Failures are told to the listener and never raised: other trials go on. What the listener itself
    raises stops all trials and is raised here.
    """
    os.environ.update(TUNE_SETTINGS)
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the listener is told all of it
    callback = TrialCallback(listener, trials=trials)
    admission = AdmittingSearch(callback, num_slots=num_slots)
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
                search_alg=admission,
                scheduler=PausingScheduler(callback, admission=admission, num_slots=num_slots),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                callbacks=[callback],
                stop=_StopWhen(stopping, callback=callback),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    if callback.error is not None:
        raise callback.error

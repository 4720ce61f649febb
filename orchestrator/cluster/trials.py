"""Runs trainings with Ray Tune: trials and pretraining.

A trial of Tune stands for a slot: one worker process that keeps its device, the base and the images
from training to training. A process per training would cost seconds. Tune's own state is never
uploaded and never restored: resume reads the store.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from orchestrator.cluster.admission import SlotScheduler, SlotSearch
from orchestrator.cluster.protocol import TrialListener, TrialSettings
from orchestrator.cluster.slot_trainings import NotPickled, SlotTrainings
from orchestrator.cluster.trial_runner import TrialRunner, report_interval_s, slot_resources
from workers.specs.training import Training
from workers.store.scratch import scratch_directory

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # would write five files per trial
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # resume reads the store, never Tune's snapshots
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver stops the run itself
    "TUNE_MAX_PENDING_TRIALS_PG": "200",  # limits the requests to Ray on clusters of 1000s of slots
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the listener hears of every error
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
}
"""Environment variables that Tune would copy into the runtime environment of its actors, which
Ray's agent writes into a log on every node. Workers use the environment of their own node."""


class _StopWhen(NotPickled, tune.Stopper):
    def __init__(self, stopping: threading.Event, *, slot_trainings: SlotTrainings) -> None:
        self._stopping = stopping
        self._slot_trainings = slot_trainings

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        return self._stopping.is_set() or self._slot_trainings.must_stop()


def run_trials(
    trials: Sequence[Training],
    *,
    worker: str,
    settings: TrialSettings,
    num_slots: Callable[[], int],
    listener: TrialListener,
    stopping: threading.Event,
) -> None:
    """Runs trials until they end, as many at once as there are slots.

    A trial starts when a slot is free and the listener allows it. A trial that is stopped, or
    paused because there are fewer slots, leaves a checkpoint. A paused trial is the next to start
    when there are more slots.

    The function returns early when the run is stopped. It also returns when no slot is left and no
    trial runs; the remaining trials, paused ones too, may then be passed to it again.

    The listener hears of failed trials, and the other trials go on. If the listener itself raises,
    all trials are stopped, and the function raises that error.

    Args:
        trials: The trials, in the order in which they start.
        worker: The class that runs in worker processes, `module:Class`.
        settings: Store, shares and checkpoint interval of all trials.
        num_slots: Returns the number of trials that may run now; asked often.
        listener: Hears of every event.
        stopping: Stops all trials when it is set.
    """
    os.environ.update(TUNE_SETTINGS)
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the listener hears of every error
    slot_trainings = SlotTrainings(listener, trainings=trials, settings=settings)
    search = SlotSearch(slot_trainings, num_slots=num_slots)
    with scratch_directory("tune") as scratch:
        tune.Tuner(
            _trainable(
                trials,
                worker=worker,
                settings=settings,
                report_every_s=report_interval_s(num_slots()),
            ),
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                search_alg=search,
                scheduler=SlotScheduler(slot_trainings, search=search, num_slots=num_slots),
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(scratch),
                # No callbacks: for the names of its own, Tune would load MLflow before it starts.
                stop=_StopWhen(stopping, slot_trainings=slot_trainings),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    if slot_trainings.error is not None:
        raise slot_trainings.error


def _trainable(
    trials: Sequence[Training], *, worker: str, settings: TrialSettings, report_every_s: float
) -> Any:  # noqa: ANN401 Tune has no type for it
    """Returns the runner of trials with their specifications and the settings of workers."""
    parameters = {
        "trainings": list(trials),
        "worker": worker,
        "store_url": settings.store_url,
        "num_cpus": settings.share.cpu,
        "checkpoint_every_s": settings.checkpoint_every_s,
        "report_every_s": report_every_s,
    }
    # A function of a slot's configuration, because a training may get more of a GPU than others.
    resources = functools.partial(slot_resources, num_cpus=settings.share.cpu)
    return tune.with_resources(tune.with_parameters(TrialRunner, **parameters), resources)

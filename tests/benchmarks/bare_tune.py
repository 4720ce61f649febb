"""Measures Ray Tune alone with trials that train nothing, to compare `trial_overhead.py` with it.

Neither experts nor merges nor MLflow: each trial reports one number. The script must run in a
process of its own, before anything else has connected to Ray.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

WARM_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""No files per trial, and no snapshots of Tune's state before the end."""


class Noop(tune.Trainable):
    """A trial that reports once, in a process that is kept for the next trial."""

    def step(self) -> dict[str, Any]:
        """Reports the end of the trial."""
        return {"loss": 0.1, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Allows the next trial to use the process."""
        del new_config
        return True


def noop(config: dict[str, Any]) -> None:
    """Reports once; Tune runs each trial in a process of its own."""
    del config
    tune.report({"loss": 0.1})


class _EndTimes(tune.Callback):
    def __init__(self) -> None:
        self.at_s: list[float] = []

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        del iteration, trials, trial, info
        self.at_s.append(time.time())


def measure(num_trials: int, *, warm: bool) -> list[float]:
    """Runs trials that train nothing; returns the times at which they ended, in seconds."""
    times = _EndTimes()
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            Noop if warm else noop,
            param_space={"number": tune.grid_search(list(range(num_trials)))},
            tune_config=tune.TuneConfig(reuse_actors=warm),
            run_config=tune.RunConfig(
                storage_path=folder,
                callbacks=[times],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()
    return times.at_s


def main() -> None:
    """Prints the times at which the trials ended, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--warm", action="store_true", help="keep processes, no files")
    args = parser.parse_args()
    if args.warm:
        os.environ.update(WARM_SETTINGS)
        # Without files, Tune warns at the end that it cannot read them: a line for each trial.
        logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    print(json.dumps(measure(args.trials, warm=args.warm)))  # noqa: T201 its output


if __name__ == "__main__":
    main()

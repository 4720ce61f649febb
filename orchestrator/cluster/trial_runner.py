"""Runs one trial after another in a process of Ray Tune."""

import functools
from collections.abc import Generator, Sequence
from typing import Any

from ray import tune

from orchestrator.cluster.connection import create_worker
from workers.specs.training import Training

REPORT_EVERY_S = 5.0
"""Seconds between two reports of a running trial. A report costs the driver time, and a trial can
be stopped or paused only at a report."""


class TrialRunner(tune.Trainable):
    """A Tune actor that runs one trial after another with the same worker."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        trials: Sequence[Training] = (),
        worker: str = "",
        store_url: str = "",
        num_cpus: float = 1,
        checkpoint_every_s: float = 30,
    ) -> None:
        """Begins the first trial.

        The worker, which takes seconds to import, is created by the first step instead: Tune kills
        an actor that is still in `setup` when another actor has become free for its trial.
        """
        self._trials = trials
        self._checkpoint_every_s = checkpoint_every_s
        self._progress: Generator[Any, None, None] | None = None
        self._create_worker = functools.cache(
            lambda: create_worker(worker, store_url=store_url, num_cpus=num_cpus)
        )
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the next trial in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Runs the trial until its next report."""
        if self._progress is None:
            self._progress = self._create_worker().run_training(
                self._spec,
                report_every_s=REPORT_EVERY_S,
                checkpoint_every_s=self._checkpoint_every_s,
            )
        progress = next(self._progress)
        done = progress.step >= self._spec.num_steps
        committed = [manifest.to_json() for manifest in progress.committed]
        return {"step": progress.step, "loss": progress.loss, "committed": committed, "done": done}

    def cleanup(self) -> None:
        """Ends a trial that is stopped; the worker writes a checkpoint."""
        if self._progress is not None:
            self._progress.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self._spec = self._trials[config["trial"]]
        self._progress = None

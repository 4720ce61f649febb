"""Runs one training after another in a process of Ray Tune."""

import functools
from collections.abc import Generator, Sequence
from typing import Any

from ray import tune

from orchestrator.cluster.connection import create_worker
from workers.specs.training import Training
from workers.train.memory_share import MemoryShare

REPORT_EVERY_S = 5.0
"""Seconds between two reports of a running trial. A report costs the driver time, and a trial can
be stopped or paused only at a report."""
MOST_REPORTS_PER_S = 20.0
"""Of all workers together. Tune waits for all workers at each report, so that one costs the driver
0.03 ms for each worker: 30 ms with 1,000, which at 5 s would keep them idle most of the time."""


def report_interval_s(num_slots: int) -> float:
    """Returns the seconds between two reports of each of so many workers."""
    return max(REPORT_EVERY_S, num_slots / MOST_REPORTS_PER_S)


def slot_resources(config: dict[str, Any], *, num_cpus: float) -> tune.PlacementGroupFactory:
    """Returns the resources of a slot from the configuration of its trial of Tune."""
    gpu = config["memory"]["gpu"]
    return tune.PlacementGroupFactory([{"CPU": num_cpus, **({"GPU": gpu} if gpu else {})}])


class TrialRunner(tune.Trainable):
    """A Tune actor that runs one training after another with the same worker."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        trainings: Sequence[Training] = (),
        worker: str = "",
        store_url: str = "",
        num_cpus: float = 1,
        checkpoint_every_s: float = 30,
        report_every_s: float = REPORT_EVERY_S,
    ) -> None:
        """Begins the first training.

        The worker, which takes seconds to import, is created by the first step instead: Tune kills
        an actor that is still in `setup` when another actor has become free for its trial.
        """
        self._trainings = trainings
        self._checkpoint_every_s = checkpoint_every_s
        self._report_every_s = report_every_s
        self._progress: Generator[Any, None, None] | None = None
        self._create_worker = functools.cache(
            lambda: create_worker(worker, store_url=store_url, num_cpus=num_cpus)
        )
        self._start(config)

    def _start(self, config: dict[str, Any]) -> None:
        """Begins the first training of a trial of Tune, which the next step reports."""
        self._says_that_it_begins = True
        self.begin(config["training"], config["memory"])

    def begin(self, number: int, memory: dict[str, Any]) -> None:
        """Begins a training in the same process; the next step runs it."""
        self._spec = self._trainings[number]
        self._memory = MemoryShare(**memory)
        self._progress = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the first training of another trial of Tune."""
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Runs the training until its next report; reports first that a trial of Tune has begun."""
        if self._says_that_it_begins:
            self._says_that_it_begins = False
            return {"begins": True}
        if self._progress is None:
            self._progress = self._create_worker().run_training(
                self._spec,
                report_every_s=self._report_every_s,
                checkpoint_every_s=self._checkpoint_every_s,
                memory=self._memory,
            )
        progress = next(self._progress)
        return {
            "step": progress.step,
            "loss": progress.loss,
            "committed": [manifest.to_json() for manifest in progress.committed],
            "is_trained": progress.step >= self._spec.num_steps,
        }

    def cleanup(self) -> None:
        """Ends a training that is stopped; the worker writes a checkpoint."""
        if self._progress is not None:
            self._progress.close()

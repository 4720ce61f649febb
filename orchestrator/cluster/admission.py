"""Decides which trainings run in Ray Tune, for a number of slots that changes while they run.

A trial of Tune stands for a slot: its worker runs one training after another, so that neither the
time nor the memory of a training grows with the number of trainings that have ended. Tune keeps a
trial that has ended, looks at all of them after each event, and writes them down at the end.

With more slots, more trials of Tune start. With fewer slots, those whose trainings began last end
at their next report, and their trainings wait again. Their processes end instead of being kept for
reuse, so that other studies can use the resources.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm

from orchestrator.cluster.slot_trainings import NotPickled, SlotTrainings


class SlotSearch(NotPickled, SearchAlgorithm):
    """A Tune search algorithm that yields a trial for each free slot, with its first training."""

    def __init__(self, trainings: SlotTrainings, *, num_slots: Callable[[], int]) -> None:
        self._trainings = trainings
        self._num_slots = num_slots
        self._settings: dict[str, Any] = {}

    def add_configurations(self, experiments: list[Experiment]) -> None:  # type: ignore[override]
        """Takes the settings that all trials of Tune have in common."""
        (experiment,) = experiments
        self._settings = experiment.spec

    def next_trial(self) -> Trial | None:
        """Returns a trial for a free slot, None if there is no slot or no training for it."""
        if self.is_finished() or (number := self._trainings.next_number()) is None:
            return None
        memory = self._trainings.memory(number)
        trial = Trial(
            self._settings["run"],
            config={"training": number, "memory": asdict(memory)},
            storage=self._settings["storage"],
            checkpoint_config=self._settings["checkpoint_config"],
            placement_group_factory=self._settings["resources_per_trial"],
        )
        self._trainings.give(trial, number, memory=memory)
        return trial

    def is_finished(self) -> bool:
        """Returns whether nothing can start now.

        While this is True, Tune ends the processes of ending trials and the processes that it has
        kept, instead of keeping them for the next trial. If no trial is left, Tune returns.
        """
        return self._finished or not (self._trainings.has_waiting and self.has_room())

    def has_room(self) -> bool:
        """Returns whether another training may run."""
        return self._trainings.num_slots_taken < self._num_slots()


class SlotScheduler(NotPickled, FIFOScheduler):
    """A Tune scheduler that gives a worker its next training, or ends a worker without a slot."""

    def __init__(
        self, trainings: SlotTrainings, *, search: SlotSearch, num_slots: Callable[[], int]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._trainings = trainings
        self._search = search
        self._num_slots = num_slots

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Passes a report on; returns whether the worker goes on, with the same or the next one."""
        del tune_controller
        if result.get("begins"):
            self._trainings.begin(trial)
            return str(TrialScheduler.CONTINUE)
        self._trainings.report(trial, result)
        if result["is_trained"]:
            self._trainings.finish(trial)
            return self._begin_next(trial)
        if self._trainings.is_surplus(trial, num_slots=self._num_slots()):
            self._trainings.pause(trial)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Passes on that the training of a trial of Tune has failed."""
        del tune_controller
        self._trainings.fail(trial)

    def _begin_next(self, trial: Trial) -> str:
        """Gives the worker its next training, if it may have one and it needs as much of a GPU."""
        if not self._search.has_room() or (number := self._trainings.next_number()) is None:
            return str(TrialScheduler.STOP)
        memory = self._trainings.memory(number)
        if memory.gpu != trial.config["memory"]["gpu"]:
            self._trainings.put_back(number)
            return str(TrialScheduler.STOP)
        worker = trial.temporary_state.ray_actor
        assert worker is not None, f"{trial} has reported, but has no worker"
        # Ray runs an actor's calls in their order: this one before Tune's next `train`.
        worker.begin.remote(number, asdict(memory))
        self._trainings.give(trial, number, memory=memory)
        self._trainings.begin(trial)
        return str(TrialScheduler.CONTINUE)

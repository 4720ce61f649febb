"""Decides which trials run in Ray Tune, for a number of slots that changes while they run.

With more slots, paused trials go on first, and then new trials start. With fewer slots, the trials
that began last are paused at their next report. Their processes end instead of being kept for
reuse, so that other studies can use the resources.
"""

from collections.abc import Callable
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator

from orchestrator.cluster.trial_callback import NotPickled, TrialCallback


class AdmittingSearch(NotPickled, BasicVariantGenerator):
    """A Tune search algorithm that yields trials when a slot is free and the listener agrees."""

    def __init__(self, callback: TrialCallback, *, num_slots: Callable[[], int]) -> None:
        super().__init__()
        self._callback = callback
        self._num_slots = num_slots
        self.paused: set[Trial] = set()

    def has_room(self) -> bool:
        """Returns whether another trial may run."""
        return len(self._live_trials) - len(self.paused) < self._num_slots()

    def next_trial(self) -> Trial | None:
        """Returns the next trial that may start, None if none may or a paused one goes first."""
        while not self.paused:
            trial: Trial | None = super().next_trial()  # type: ignore[no-untyped-call]
            if trial is None or self._callback.may_start(trial):
                return trial
            self.on_trial_complete(trial.trial_id)
        return None

    def is_finished(self) -> bool:
        """Returns whether nothing can start now.

        While this is True, Tune ends the processes of ending trials and the processes that it has
        kept, instead of keeping them for the next trial. If no trial is left, Tune returns.
        """
        return (self._finished and not self.paused) or not self.has_room()

    def set_finished(self) -> None:
        """Notes that no trial starts or goes on any more."""
        super().set_finished()  # type: ignore[no-untyped-call]
        self.paused.clear()

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: object) -> None:
        """Writes nothing, as a run never restores Tune's state."""


class PausingScheduler(NotPickled, FIFOScheduler):
    """A Tune scheduler that pauses trials without a slot, and lets them go on when one is free."""

    def __init__(
        self, callback: TrialCallback, *, admission: AdmittingSearch, num_slots: Callable[[], int]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._callback = callback
        self._admission = admission
        self._num_slots = num_slots

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Pauses the trial if the trials that began before it fill every slot."""
        if trial not in self._callback.running[self._num_slots() :]:
            return str(super().on_trial_result(tune_controller, trial, result))
        self._admission.paused.add(trial)
        self._callback.forget(trial)
        # Tune's own checkpoint would be a file on a node; the worker's checkpoint is in the store.
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return str(TrialScheduler.NOOP)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Returns a trial that waits for its start, else a paused trial if there is a slot."""
        trial: Trial | None = super().choose_trial_to_run(tune_controller)
        if trial is None or trial.status != Trial.PAUSED:
            return trial
        if not self._admission.has_room():
            return None
        self._admission.paused.discard(trial)
        return trial

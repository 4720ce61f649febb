"""Decides which trials run in Ray Tune, and keeps to a number of slots that changes as they run.

More slots: paused trials go on, then new ones start. Fewer: the trials that began last are paused
at their next report, and their processes end instead of being kept for reuse, so that what they
held is free for others.
"""

from collections.abc import Callable
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator

from orchestrator.cluster.trial_callback import NotPickled, TrialCallback


class AdmittingSearch(NotPickled, BasicVariantGenerator):
    """Makes Tune's trials one after another, as places become free, without those left out."""

    def __init__(self, callback: TrialCallback, *, num_slots: Callable[[], int]) -> None:
        super().__init__()
        self._callback = callback
        self._num_slots = num_slots
        self.paused: set[Trial] = set()

    def has_room(self) -> bool:
        """Tells whether another trial may run."""
        return len(self._live_trials) - len(self.paused) < self._num_slots()

    def next_trial(self) -> Trial | None:
        """Returns the next trial that may start, None if there is none or no place now."""
        while not self.paused:  # these go first
            trial: Trial | None = super().next_trial()  # type: ignore[no-untyped-call]
            if trial is None or self._callback.may_start(trial):
                return trial
            self.on_trial_complete(trial.trial_id)
        return None

    def is_finished(self) -> bool:
        """Tells whether there is nothing to start now.

        Tune ends the process of a trial that ends then, and those that it kept, where it would
        keep them for the next trial. With no trial at all it returns.
        """
        return (self._finished and not self.paused) or not self.has_room()

    def set_finished(self) -> None:
        """Notes that nothing more starts or goes on."""
        super().set_finished()  # type: ignore[no-untyped-call]
        self.paused.clear()

    def save_to_dir(self, dirpath: str, session_str: str = "", **kwargs: object) -> None:
        """Writes nothing."""


class PausingScheduler(NotPickled, FIFOScheduler):
    """Pauses trials that have no slot any more, and lets them go on when there is one."""

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
        """Pauses the trial if as many as there are slots began before it."""
        if trial not in self._callback.running[self._num_slots() :]:
            return str(super().on_trial_result(tune_controller, trial, result))
        self._admission.paused.add(trial)
        self._callback.forget(trial)
        # Tune's own checkpoint would be a file on a node; ours is in the store.
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return str(TrialScheduler.NOOP)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Returns a trial that waits to be started, else one that is paused and has room."""
        trial: Trial | None = super().choose_trial_to_run(tune_controller)
        if trial is None or trial.status != Trial.PAUSED:
            return trial
        if not self._admission.has_room():
            return None
        self._admission.paused.discard(trial)
        return trial

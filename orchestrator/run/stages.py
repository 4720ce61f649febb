"""Runs the stages of a study in their order: preparation, training, merging."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.cluster.jobs import Job, JobKind
from orchestrator.cluster.protocol import Cluster, FairShare, TrialSettings, WorkerPool
from orchestrator.progress.live_state import LiveState
from orchestrator.progress.pause import Paced
from orchestrator.run.coordinator import Coordinator, preparation_jobs
from orchestrator.run.growth import grow
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.preparation_errors import preparation_text
from orchestrator.run.slots import Slots
from workers.specs.measures import ConstantsSpec, Measurement, OperatorSpec, ReachSpec
from workers.specs.training import Training

POLL_S = 0.2
_MEASURED_BY = {
    ConstantsSpec: JobKind.CONSTANTS,
    ReachSpec: JobKind.REACH,
    OperatorSpec: JobKind.OPERATOR,
}


class PreparationError(Exception):
    """A base, a head or a task's images could not be made, so nothing can run."""

    def __init__(self, text: str, *, is_input_wrong: bool) -> None:
        """Creates the error.

        Args:
            text: The reasons, one below the other.
            is_input_wrong: Whether the user's files are the reason of all failures.
        """
        super().__init__(text)
        self.is_input_wrong = is_input_wrong


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The stages of one session; each method returns when its stage has ended or was stopped."""

    opened: OpenedStudy
    cluster: Cluster
    fair_share: FairShare
    slots: Slots
    pool: WorkerPool
    coordinator: Coordinator
    state: LiveState
    """Shows the name of the present stage."""
    stopping: threading.Event

    def check_room(self) -> None:
        """Checks that trials can start, if any are left, before anything is scheduled.

        Raises:
            NoRoomError: A trial's share is larger than this machine.
        """
        if self.opened.ledger.committed().missing_trainings:
            self.fair_share.check_room(self.opened.plan.study.resources.trial)

    def prepare(self) -> None:
        """Makes the missing bases, heads and images.

        Raises:
            PreparationError: Some could not be made; the message names them with their reasons.
        """
        self.state.stage = "preparing bases and images"
        for job in preparation_jobs(self.opened.plan, done=self.opened.prepared):
            self.pool.submit(job)
        self._begin_job_stage()
        self._wait_for_pool()
        errors, data_errors = self.coordinator.prepare_errors, self.coordinator.data_errors
        if errors or data_errors:
            text = preparation_text(errors, data_errors=data_errors)
            raise PreparationError(text, is_input_wrong=self.coordinator.is_input_wrong)

    def train(self) -> None:
        """Runs pretraining and trials in rounds until none is left that may run.

        A round has everything that can run when it begins. Failed trials that have a retry left,
        and trials whose base is pretrained in this round, run in the next one. Merge jobs run
        beside the trials as soon as their experts are committed.
        """
        study, slots = self.opened.plan.study, self.slots
        self.coordinator.submit_merges(self.opened.ledger.state().ready_merges)
        self.fair_share.begin_stage(
            study.resources.trial,
            num_wanted=Paced(self._num_wanted_by_training),
            set_slots=lambda num: self.pool.resize(
                slots.beside_trials(num), reserve=slots.reserves
            ),
        )
        while not self.stopping.is_set() and (trials := self._trials_with_room()):
            self.state.stage = "fine-tuning"
            if not self.fair_share.wait_for_slot(self.stopping):
                return
            self.cluster.run_trials(
                trials,
                settings=TrialSettings(
                    store_url=self.opened.store_url,
                    share=study.resources.trial,
                    checkpoint_every_s=study.checkpoint_every_s,
                    memory_of=self.coordinator.memory_shares.of,
                ),
                num_slots=lambda: slots.for_trials(self.fair_share.num_slots),
                listener=self.coordinator,
                stopping=self.stopping,
            )

    def merge(self) -> None:
        """Runs the remaining merge jobs, until the budget has no room for any further one."""
        self.state.stage = "merging"
        self._begin_job_stage()
        self._wait_for_pool()
        while not self.stopping.is_set():
            self.opened.budget_keeper.refresh()
            if not self.coordinator.submit_merges(self.opened.ledger.state().ready_merges):
                return
            self._wait_for_pool()

    def grow(self) -> bool:
        """Takes the next decision of a search; returns whether there is more to train or merge."""
        if self.stopping.is_set() or self.coordinator.is_spent:
            return False
        self.state.stage = "deciding which candidates go on"
        opened = self.opened
        has_grown = grow(
            opened.ledger,
            folder=opened.folder,
            artifacts=opened.artifacts,
            index=opened.index,
            text=opened.text,
        )
        if has_grown:
            self.coordinator.grow()
        return has_grown

    def measure(self, specs: Sequence[Measurement]) -> dict[str, str]:
        """Makes measurements; returns the reason for each one that failed, by id."""
        for spec in specs:
            self.pool.submit(Job(id=spec.id, kind=_MEASURED_BY[type(spec)], argument=spec))
        self._begin_job_stage()
        while not self.pool.is_idle() and not self.stopping.wait(POLL_S):
            num_done = len(specs) - self.pool.num_unfinished()
            self.state.stage = f"measuring, {num_done} of {len(specs)} done"
        return dict(self.coordinator.unmeasured)

    def _begin_job_stage(self) -> None:
        """Begins a stage in which job workers may fill every slot of the study."""
        self.fair_share.begin_stage(
            self.opened.plan.study.resources.merge,
            num_wanted=self.pool.num_unfinished,
            set_slots=lambda num: self.pool.resize(num, reserve=self.slots.reserves),
        )

    def _num_wanted_by_training(self) -> int:
        """Returns the slots that trials, and merge workers that hold a share, could fill."""
        budget_keeper = self.opened.budget_keeper
        left_out = budget_keeper.left_out()
        runnable = self.opened.ledger.state().runnable_trainings
        num_trials = sum(training.id not in left_out for training in runnable)
        if not self.slots.reserves:
            return num_trials
        num_beside = self.slots.beside_trials(self.fair_share.num_slots)
        return num_trials + min(num_beside, self.pool.num_unfinished())

    def _trials_with_room(self) -> Sequence[Training]:
        """Returns the trials that could start now and fit the budget."""
        budget_keeper = self.opened.budget_keeper
        budget_keeper.refresh()
        runnable = self.opened.ledger.state().runnable_trainings
        return [trial for trial in runnable if budget_keeper.has_room_for(trial.id)]

    def _wait_for_pool(self) -> None:
        while not self.pool.is_idle() and not self.stopping.wait(POLL_S):
            pass

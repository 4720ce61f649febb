"""Reacts to events on the cluster: records them, releases merge jobs, decides about retries."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from eval.images.protocol import ImageSourceError
from orchestrator.cluster.jobs import Job, JobEnd, JobKind, JobQueue
from orchestrator.costs.budget import BudgetKeeper
from orchestrator.costs.usage import training_seconds
from orchestrator.plan.plan import Plan
from orchestrator.progress.live_state import LiveState
from orchestrator.progress.panel import prepared_line
from orchestrator.progress.state import RunningTrial
from orchestrator.record.failures import Failure, Failures
from orchestrator.record.ledger import Ledger
from orchestrator.run.memory_shares import MemoryShares
from orchestrator.run.merge_jobs import MergeJobs
from workers.artifacts.manifests import Manifest
from workers.merging.choice import NothingToChooseError
from workers.prepare.progress import PreparationProgress
from workers.specs.merge import MergeSpec
from workers.store.machine_errors import MachineError
from workers.store.protocol import (
    StoreCredentialsError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
    StoreNotWritableError,
    StoreUnavailableError,
)
from workers.train.memory_share import DeviceMemoryError

FAULTS = (
    MachineError,
    StoreCredentialsError,
    StoreFullError,
    StoreNotFoundError,
    StoreNotWritableError,
    StoreUnavailableError,
)
"""Errors of the store, and of a machine's own folders, that every other job would meet too. The
worker has retried before it raises one of the store."""
_OWN_PACKAGES = ("merge", "eval", "workers")


@dataclass(frozen=True, kw_only=True)
class Bookkeeping:
    """The records that a run keeps of its study."""

    ledger: Ledger
    """The artifacts that are committed."""
    budget_keeper: BudgetKeeper
    """The rest of the budget."""
    failures: Failures
    """The failed tries."""


class Coordinator:
    """Receives the events of trials and jobs, updates the records and submits merge jobs.

    Its methods are called from two threads: the one that runs Ray Tune and the job pool's.
    """

    def __init__(
        self,
        books: Bookkeeping,
        *,
        jobs: JobQueue,
        state: LiveState,
        on_commit: Callable[[Manifest], None],
        stop: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a coordinator.

        Args:
            books: The records of the study, which the coordinator updates.
            jobs: Takes merge jobs, and failed jobs again.
            state: Shows running trials, preparations, notes and failures.
            on_commit: Is called with the manifest of each committed artifact.
            stop: Stops the run; called when the store fails in a worker.
            clock: Returns seconds from any origin, for the speed of trials.
        """
        self._ledger = books.ledger
        self._budget_keeper = books.budget_keeper
        self._failures = books.failures
        self._jobs = jobs
        self._state = state
        self._on_commit = on_commit
        self._stop = stop
        self._clock = clock
        self._first_reports: dict[str, tuple[int, float]] = {}
        """Step and time of the first report of each running trial, by the trial's id."""
        self._begun_s: dict[str, float] = {}
        """The time at which the worker of each running trial began it, by the trial's id."""
        self._work_s: dict[str, float] = {}
        """The seconds of each running trial's work until its last commit, by the trial's id."""
        self._lock = threading.Lock()
        self._submitted: set[str] = set()
        self._merge_jobs = MergeJobs(books.ledger)
        self._names = _names(books.ledger.plan)
        """Displayed name and number of steps by artifact: a training's remainder may end early."""
        self.memory_shares = MemoryShares(books.ledger.plan)
        """The part of a GPU that each training gets; more after it ran out of memory."""
        self.prepare_errors: list[str] = []
        """A text for each preparation job that failed; the run cannot go on without them."""
        self.is_input_wrong = True
        """Whether all of them blame their input, such as an image that is none."""
        self.data_errors: list[ImageSourceError] = []
        """The errors of the preparation jobs that failed because of a task's files."""
        self.fault: StoreError | MachineError | None = None
        """The first store error of a worker that stopped the run."""
        self.unmeasured: dict[str, str] = {}
        """The reason for each measurement that failed, by id; a study's run goes on without it."""
        self.is_spent = False
        """Whether the budget is reached; nothing more starts then."""

    def grow(self) -> None:
        """Takes the ledger's plan, which has grown. Call it while nothing runs."""
        plan = self._ledger.plan
        self._names = _names(plan)
        self.memory_shares.plan(plan)
        self._budget_keeper.grow()

    def submit_merges(self, specs: Sequence[MergeSpec]) -> int:
        """Submits the merge jobs that fit the budget, each at most once; returns their number.

        A merge that does not fit now may fit later, when other jobs took less than estimated.
        """
        num_submitted = 0
        for spec in () if self.is_spent else specs:
            with self._lock:
                is_new = spec.id not in self._submitted and self._budget_keeper.admit(spec.id)
                if is_new:
                    self._submitted.add(spec.id)
            if is_new:
                num_submitted += 1
                self._submit_merge(spec)
        return num_submitted

    def _submit_merge(self, spec: MergeSpec) -> None:
        try:
            self._jobs.submit(self._merge_jobs.job(spec))
        except NothingToChooseError as error:
            self._ledger.fail(spec.id, reason=str(error))
            self._budget_keeper.ended(spec.id)
            self._state.note_failure(f"{self._merge_name(spec.id)} failed: {error}")

    def job_progressed(self, job: Job, progress: PreparationProgress) -> None:
        """Shows how many images of a task are prepared."""
        self._state.preparations[job.id] = progress

    def job_ended(self, end: JobEnd) -> None:
        """Records the end of a preparation or merge job; submits it again if a retry may help."""
        progress = self._state.preparations.pop(end.job.id, None)
        if progress is not None and end.manifest is not None:
            self._state.notes.append(prepared_line(progress, manifest=end.manifest))
        if end.job.kind.is_measurement:
            self._measurement_ended(end)
            return
        if end.manifest is not None:
            self._ledger.add(end.manifest)
            self._budget_keeper.ended(end.job.id)
            self._check_budget()
            self._on_commit(end.manifest)
            return
        if self._is_fault(end.error):
            return
        is_merge = end.job.kind.is_merge
        failure = Failure(
            artifact_id=end.job.id,
            reason=f"{type(end.error).__name__}: {end.error}",
            trace=end.trace,
        )
        # A preparation is not retried.
        is_final = not is_merge or is_of_input(end.error)
        final_reason = self._failures.note(failure, is_final=is_final)
        if final_reason is None:
            self._jobs.submit(end.job)
        elif is_merge:
            self._ledger.fail(end.job.id, reason=final_reason)
            self._budget_keeper.ended(end.job.id)
            self._state.note_failure(f"{self._merge_name(end.job.id)} failed: {final_reason}")
        elif isinstance(end.error, ImageSourceError):
            self.data_errors.append(end.error)
        else:
            is_input_wrong = is_of_input(end.error)
            self.is_input_wrong = self.is_input_wrong and is_input_wrong
            text = str(end.error) if is_input_wrong else final_reason
            self.prepare_errors.append(f"{_preparation_name(end.job)}: {text}")

    def may_start(self, trial_id: str) -> bool:
        """Returns whether a trial fits the budget."""
        return not self.is_spent and self._budget_keeper.admit(trial_id)

    def may_go_on(self) -> bool:
        """Returns whether running trials may go on: the budget is not reached."""
        return not self.is_spent

    def trial_started(self, trial_id: str) -> None:
        """Shows a trial as running; its seconds count from now on."""
        self._budget_keeper.started(trial_id)
        self._begun_s[trial_id] = self._clock()
        name, steps = self._names[trial_id]
        self._state.trials[trial_id] = RunningTrial(name=name, step=0, steps=steps, loss=None)

    def trial_progressed(
        self, trial_id: str, *, step: int, loss: float | None, committed: Sequence[Manifest]
    ) -> None:
        """Shows a trial's progress, records its experts, submits the merges that became ready."""
        self._show(trial_id, step=step, loss=loss)
        for manifest in committed:
            self._work_s[trial_id] = training_seconds(manifest)
            ready = self._ledger.add(manifest)
            self._on_commit(manifest)
            self.submit_merges(ready)
        self._check_budget()

    def trial_failed(
        self, trial_id: str, *, error: BaseException | None, reason: str, trace: str, is_lost: bool
    ) -> None:
        """Records a failed try, and gives the trial up after the last one.

        A trial whose node was lost (`is_lost`) has not failed: it is simply run again. Neither has
        one that ran out of memory and can be given more, or can do with less.
        """
        self._forget(trial_id)
        self._budget_keeper.ended(trial_id)
        if is_lost:
            self._state.notes.append(f"a node was lost: trial {trial_id} goes on elsewhere")
            return
        if self._is_fault(error):
            return
        lacks_memory = isinstance(error, DeviceMemoryError)
        if lacks_memory and (memory := self.memory_shares.raised(trial_id)) is not None:
            self._state.notes.append(f"trial {trial_id} ran out of memory: next try with {memory}")
            return
        failure = Failure(artifact_id=trial_id, reason=reason, trace=trace)
        is_final = lacks_memory or is_of_input(error)
        final_reason = self._failures.note(failure, is_final=is_final)
        if final_reason is not None:
            self._ledger.fail(trial_id, reason=final_reason)
            name, _ = self._names[trial_id]
            self._state.note_failure(f"trial {trial_id}: {name} failed: {final_reason}")

    def trial_paused(self, trial_id: str) -> None:
        """Stops a trial's clock and shows it no longer, until it starts again."""
        self._budget_keeper.paused(trial_id)
        self._forget(trial_id)

    def trial_finished(self, trial_id: str) -> None:
        """Frees the trial's room in the budget and shows it no longer."""
        self._budget_keeper.ended(trial_id)
        held_s = self._clock() - self._begun_s[trial_id]
        self._state.extra_s.append(max(0.0, held_s - self._work_s.get(trial_id, held_s)))
        self._forget(trial_id)

    def _measurement_ended(self, end: JobEnd) -> None:
        """Records the reason if a measurement failed; it is deterministic, so it is not retried."""
        if end.manifest is not None or self._is_fault(end.error):
            return
        reason = f"{type(end.error).__name__}: {end.error}"
        self.unmeasured[end.job.id] = reason
        self._state.note_failure(f"{end.job.kind.value} {end.job.id} failed: {reason}")

    def _check_budget(self) -> None:
        """Cancels waiting jobs, and so stops trials, once measured use reaches the budget."""
        if not self.is_spent and self._budget_keeper.is_spent():
            self.is_spent = True
            self._jobs.cancel_waiting()
            self._state.notes.append("the budget is reached: no further trial or merge starts")

    def _is_fault(self, error: BaseException | None) -> bool:
        """Stops the run if the store or a disk failed; this is not the fault of the job."""
        if not isinstance(error, FAULTS):
            return False
        self.fault = self.fault or error
        self._stop()
        return True

    def _merge_name(self, merge_id: str) -> str:
        cell = self._ledger.plan.first_cells[merge_id]
        return f"merge {merge_id}: {cell.label} on {cell.group.name} at {cell.setting.name}"

    def _show(self, trial_id: str, *, step: int, loss: float | None) -> None:
        name, steps = self._names[trial_id]
        now_s = self._clock()
        # A resumed trial begins at its checkpoint's step, which only its first report says.
        first_step, first_s = self._first_reports.setdefault(trial_id, (step, now_s))
        speed = (step - first_step) / (now_s - first_s) if now_s > first_s else None
        self._state.trials[trial_id] = RunningTrial(
            name=name, step=step, steps=steps, loss=loss, steps_per_s=speed
        )

    def _forget(self, trial_id: str) -> None:
        self._state.trials.pop(trial_id, None)
        for by_trial in (self._first_reports, self._begun_s, self._work_s):
            by_trial.pop(trial_id, None)


def _names(plan: Plan) -> dict[str, tuple[str, int]]:
    return {
        output.id: (training.label, output.hyperparameters.steps)
        for training in plan.trainings
        for output in training.outputs
    }


def _preparation_name(job: Job) -> str:
    match job.kind:
        case JobKind.IMAGES:
            return f"the images of {job.argument.spec.task}"
        case JobKind.HEAD:
            return f"the zero-shot head of {job.argument.spec.task}"
    return f"the base {job.argument.spec.model}"


def is_of_input(error: BaseException | None) -> bool:
    """Returns whether an error blames the job's input, so that every further try would raise it.

    The `ValueError`s of our own packages do, such as that of a merge whose result is not finite.
    Python's own `ValueError` may have any cause.
    """
    package, _, _ = type(error).__module__.partition(".")
    return isinstance(error, ValueError) and package in _OWN_PACKAGES


def preparation_jobs(plan: Plan, *, done: Collection[str]) -> list[Job]:
    """Returns the jobs that make the downloaded or random bases, the heads and the images.

    Args:
        plan: The study's plan.
        done: Ids of artifacts that are committed; their jobs are left out.
    """
    jobs = [Job(id=job.spec.id, kind=JobKind.BASE, argument=job) for job in plan.bases.jobs]
    jobs += [Job(id=job.spec.id, kind=JobKind.HEAD, argument=job) for job in plan.heads.values()]
    jobs += [Job(id=job.id, kind=JobKind.IMAGES, argument=job) for job in plan.data_jobs]
    return [job for job in jobs if job.id not in done]

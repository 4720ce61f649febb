"""Reacts to what happens on the cluster: counts, publishes, releases merge jobs, tries again."""

import threading
import time
from collections.abc import Callable, Collection, Sequence

from merge.errors import MergeError
from orchestrator.cluster.jobs import Job, JobEnd
from orchestrator.costs.budget import Allowance
from orchestrator.plan.plan import Plan
from orchestrator.progress.display import LiveState, prepared_line
from orchestrator.progress.state import RunningTrial
from orchestrator.record.failures import Failure, Failures
from orchestrator.record.ledger import Ledger
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress
from workers.specs.merge import MergeSpec
from workers.store.protocol import (
    StoreCredentialsError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
    StoreNotWritableError,
    StoreUnavailableError,
)

STORE_FAULTS = (
    StoreCredentialsError,
    StoreFullError,
    StoreNotFoundError,
    StoreNotWritableError,
    StoreUnavailableError,
)
"""Errors that the next trial would meet as well, after the retries of the worker that met them."""


class Coordinator:
    """Stands between workers and ledger; called from the Tuner's thread and the pool's."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        allowance: Allowance,
        failures: Failures,
        state: LiveState,
        submit: Callable[[Job], None],
        cancel_waiting: Callable[[], None],
        committed: Callable[[Manifest], None],
        stop: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._allowance = allowance
        self._failures = failures
        self._state = state
        self._submit = submit
        self._cancel_waiting = cancel_waiting
        self._committed = committed
        self._stop = stop
        self._clock = clock
        self._heard_first: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._submitted: set[str] = set()
        self._experts = ledger.plan.experts
        self._bases = ledger.plan.bases.by_id
        self.prepare_errors: list[str] = []
        self.store_fault: StoreError | None = None
        """Why the run was stopped, if the store failed in a worker."""
        self.is_spent = False
        """Whether the budget was reached, so that nothing more may start."""

    def submit_merges(self, specs: Sequence[MergeSpec]) -> int:
        """Hands merge jobs to the pool, each once, that the budget has room for; returns how many.

        What has none now may have some when others took less than was estimated.
        """
        num_submitted = 0
        for spec in () if self.is_spent else specs:
            with self._lock:
                is_new = spec.id not in self._submitted and self._allowance.admits(spec.id)
                if is_new:
                    self._submitted.add(spec.id)
            if is_new:
                num_submitted += 1
                self._submit(Job(id=spec.id, method="run_merge", argument=spec))
        return num_submitted

    def job_progressed(self, job: Job, progress: PreparationProgress) -> None:
        """Shows how far a task's images are."""
        self._state.preparations[job.id] = progress

    def job_ended(self, end: JobEnd) -> None:
        """Notes the end of a preparation or merge job, and tries again where that may help."""
        progress = self._state.preparations.pop(end.job.id, None)
        if progress is not None and end.manifest is not None:
            self._state.notes.append(prepared_line(progress, manifest=end.manifest))
        if end.manifest is not None:
            self._ledger.add(end.manifest)
            self._allowance.ended(end.job.id)
            self._look_at_budget()
            self._committed(end.manifest)
            return
        if self._is_store_fault(end.error):
            return
        failure = Failure(
            artifact_id=end.job.id,
            reason=f"{type(end.error).__name__}: {end.error}",
            trace=end.trace,
        )
        is_final = isinstance(end.error, MergeError) or end.job.method != "run_merge"
        hopeless = self._failures.note(failure, is_final=is_final)
        if hopeless is None:
            self._submit(end.job)
        elif end.job.method == "run_merge":
            self._ledger.fail(end.job.id, reason=hopeless)
            self._allowance.ended(end.job.id)
            self._state.note_failure(f"merge {end.job.id} failed: {hopeless}")
        else:
            self.prepare_errors.append(f"{end.job.id}: {hopeless}")

    def may_start(self, trial_id: str) -> bool:
        """Tells whether the budget has room for a trial."""
        return not self.is_spent and self._allowance.admits(trial_id)

    def may_go_on(self) -> bool:
        """Tells whether running trials may go on: the budget is not reached."""
        return not self.is_spent

    def trial_started(self, trial_id: str) -> None:
        """Shows a trial as running."""
        self._allowance.started(trial_id)
        name, steps = self._named(trial_id)
        self._state.trials[trial_id] = RunningTrial(name=name, step=0, steps=steps, loss=None)

    def trial_progressed(
        self, trial_id: str, *, step: int, loss: float | None, committed: Sequence[Manifest]
    ) -> None:
        """Shows how far a trial is; takes note of its experts and releases their merges."""
        self._show(trial_id, step=step, loss=loss)
        for manifest in committed:
            ready = self._ledger.add(manifest)
            self._committed(manifest)
            self.submit_merges(ready)
        self._look_at_budget()

    def trial_failed(
        self, trial_id: str, *, error: BaseException | None, reason: str, trace: str, is_lost: bool
    ) -> None:
        """Counts a failure, unless the node was taken away; gives up after the last try."""
        self._forget(trial_id)
        self._allowance.ended(trial_id)
        if is_lost:
            self._state.notes.append(f"a node was lost: trial {trial_id} goes on elsewhere")
            return
        if self._is_store_fault(error):
            return
        failure = Failure(artifact_id=trial_id, reason=reason, trace=trace)
        hopeless = self._failures.note(failure)
        if hopeless is not None:
            self._ledger.fail(trial_id, reason=hopeless)
            self._state.note_failure(f"trial {trial_id} failed: {hopeless}")

    def trial_paused(self, trial_id: str) -> None:
        """Removes a trial from the display until it goes on."""
        self._allowance.paused(trial_id)
        self._forget(trial_id)

    def trial_finished(self, trial_id: str) -> None:
        """Removes a trial from the display."""
        self._allowance.ended(trial_id)
        self._forget(trial_id)

    def _look_at_budget(self) -> None:
        """Stops trials, and jobs that no worker has, once what was measured reaches the budget."""
        if not self.is_spent and self._allowance.is_spent():
            self.is_spent = True
            self._cancel_waiting()
            self._state.notes.append("the budget is reached: nothing more is started")

    def _is_store_fault(self, error: BaseException | None) -> bool:
        """Stops the run at a fault of the store, which is none of the job that met it."""
        if not isinstance(error, STORE_FAULTS):
            return False
        self.store_fault = self.store_fault or error
        self._stop()
        return True

    def _show(self, trial_id: str, *, step: int, loss: float | None) -> None:
        name, steps = self._named(trial_id)
        now_s = self._clock()
        # A resumed trial begins at its checkpoint's step, which only its first report tells.
        first_step, first_s = self._heard_first.setdefault(trial_id, (step, now_s))
        speed = (step - first_step) / (now_s - first_s) if now_s > first_s else None
        self._state.trials[trial_id] = RunningTrial(
            name=name, step=step, steps=steps, loss=loss, steps_per_s=speed
        )

    def _forget(self, trial_id: str) -> None:
        self._state.trials.pop(trial_id, None)
        self._heard_first.pop(trial_id, None)

    def _named(self, trial_id: str) -> tuple[str, int]:
        """Returns what a trial or a pretraining is called, and its number of steps."""
        base = self._bases.get(trial_id)
        if base is not None and base.pretrain is not None:
            return f"pretraining {base.model}", base.pretrain.steps
        spec = self._experts[trial_id]
        return f"{spec.task} lr={spec.lr}", spec.steps


def preparation_jobs(plan: Plan, *, done: Collection[str]) -> list[Job]:
    """Returns the jobs that make the first bases, heads and images, without those that are done."""
    jobs = [Job(id=job.spec.id, method="prepare_base", argument=job) for job in plan.bases.jobs]
    jobs += [
        Job(id=job.spec.id, method="prepare_head", argument=job) for job in plan.heads.values()
    ]
    jobs += [
        Job(id=job.id, method="prepare_data", argument=job, reports=True) for job in plan.data_jobs
    ]
    return [job for job in jobs if job.id not in done]

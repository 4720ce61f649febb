"""Runs a study to its end, or to where it is stopped; running it again goes on from there."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from rich.console import Console

from orchestrator.cluster.connection import WORKER, in_use, is_own_ray, ray_connection
from orchestrator.cluster.fair_share_client import FairShareClient
from orchestrator.cluster.gauges import exporting_metrics
from orchestrator.cluster.job_pool import JobPool
from orchestrator.cluster.metric_names import MetricValue
from orchestrator.cluster.trials import run_trials
from orchestrator.costs.estimate import estimate
from orchestrator.progress.display import Display, LiveState, progress_line
from orchestrator.progress.state import MAX_LISTED, Progress, Throughput, publishing_progress
from orchestrator.record.failures import Failures
from orchestrator.run.coordinator import Bookkeeping, Coordinator, preparation_jobs
from orchestrator.run.metrics import metric_values
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.slots import Slots
from orchestrator.tracking.study_runs import run_of
from orchestrator.tracking.tracker import Tracker
from workers.artifacts.manifests import Manifest
from workers.specs.training import Run

POLL_S = 0.2
ESTIMATE_EVERY_S = 5.0
"""Between two estimates of the time left: one looks at every artifact, and a panel is drawn 4 times
a second."""


class PreparationError(Exception):
    """The base or the images could not be made, so nothing can run."""


@dataclass(kw_only=True)
class Session:
    """One session on a cluster: prepares, trains and merges what is missing."""

    opened: OpenedStudy
    tracker: Tracker | None
    """None where nothing is published."""
    stopping: threading.Event
    on_cluster_lost: Callable[[str], None]
    """Ends the process; called from a thread when the head is gone, when calls to Ray hang."""
    write_progress: Callable[[bytes], None] | None = None
    """Takes how far the run is, now and then, for those who watch from elsewhere."""
    worker: str = WORKER
    """The class that runs in worker processes, `module:Class`."""
    _state: LiveState = field(default_factory=LiveState, init=False)
    _fair_share: FairShareClient = field(init=False)
    _slots: Slots = field(default_factory=Slots, init=False)
    _began_s: float = field(default_factory=time.monotonic, init=False)
    _left_s: float = field(default=0.0, init=False)
    """Of work for the cluster, as estimated last."""
    _estimated_s: float = field(default=-math.inf, init=False)
    """When that was."""

    def __post_init__(self) -> None:
        """Knows nothing yet of other studies on the cluster."""
        study = self.opened.plan.study
        self._fair_share = FairShareClient(
            study.name, resources=study.resources, note=self._state.notes.append
        )

    def run(self, console: Console) -> None:
        """Runs until nothing is left or the run is stopped.

        Raises:
            PreparationError: The base or a task's images could not be made.
            StoreError: The store failed, here or in a worker; running again goes on from here.
            ConnectionError: There is no cluster at the address.
        """
        with self._connected(console, stages=("bases", "images", "experts", "merges")):
            with self._workers() as (pool, coordinator):
                self._prepare(pool, coordinator=coordinator)
                self._train(pool, coordinator=coordinator)
                self._merge(pool, coordinator=coordinator)
            self._state.stage = "stopping"

    def prepare(self, console: Console) -> None:
        """Makes the base and the images alone, as the first stage of `run` does.

        Raises:
            PreparationError, StoreError, ConnectionError: As `run` does.
        """
        with (
            self._connected(console, stages=("bases", "images")),
            self._workers() as (pool, coordinator),
        ):
            self._prepare(pool, coordinator=coordinator)

    @contextlib.contextmanager
    def _connected(self, console: Console, *, stages: Collection[str]) -> Iterator[None]:
        """Shows and leaves what goes on, and connects to the cluster."""

        def current() -> Progress:
            return self._progress(stages)

        with contextlib.ExitStack() as stack:
            stack.enter_context(Display(self._state, console=console, current=current))
            stack.enter_context(ray_connection(self.on_cluster_lost))
            resources = self.opened.plan.study.resources
            self._slots = Slots(
                most_trials=self._fair_share.most(resources.trial),
                most_jobs=self._fair_share.most(resources.merge),
            )
            stack.enter_context(self._fair_share.reporting(is_shared=not is_own_ray()))
            if self.write_progress is not None:
                throughput = Throughput()
                stack.enter_context(
                    publishing_progress(
                        lambda: self._whole_progress(stages, throughput=throughput),
                        write=self.write_progress,
                    )
                )
            yield

    def _progress(self, stages: Collection[str]) -> Progress:
        """Returns how far the run is, as far as this process knows without asking anyone."""
        ledger, state = self.opened.ledger, self._state
        trials, failures = list(state.trials.values()), list(state.failures)
        has_merges = "merges" in stages
        return Progress(
            elapsed_s=time.monotonic() - self._began_s,
            stage=state.stage,
            stages=tuple(each for each in ledger.stages() if each.name in stages),
            axes=ledger.axes() if has_merges else (),
            trials=tuple(trials[:MAX_LISTED]),
            num_trials=len(trials),
            images=tuple(progress_line(each) for each in list(state.preparations.values())),
            failures=tuple(failures[-MAX_LISTED:]),
            num_failures=len(failures),
            per_minute={},
            in_use=(),
            seconds_left=self._seconds_left() if has_merges else None,
            tracking=self.tracker.state() if self.tracker else "ok",
            sharing=self._fair_share.text(),
        )

    def _whole_progress(self, stages: Collection[str], *, throughput: Throughput) -> Progress:
        """Returns the same with speeds, and with what the cluster says."""
        progress = self._progress(stages)
        speeds = throughput.per_minute(progress.stages, at_s=progress.elapsed_s)
        return replace(progress, per_minute=speeds, in_use=in_use())

    @contextlib.contextmanager
    def _workers(self) -> Iterator[tuple[JobPool, Coordinator]]:
        """Yields a pool of job workers and what reacts to them.

        Raises:
            StoreError: The store failed in a worker.
        """
        study = self.opened.plan.study
        pool = JobPool(
            worker=self.worker, store_url=self.opened.store_url, share=study.resources.merge
        )
        coordinator = Coordinator(
            Bookkeeping(
                ledger=self.opened.ledger,
                allowance=self.opened.allowance,
                failures=Failures(self.opened.folder, retries=study.retries),
            ),
            jobs=pool,
            state=self._state,
            on_commit=self._publish,
            stop=self.stopping.set,
        )
        pool.start(coordinator.job_ended, on_progress=coordinator.job_progressed)
        try:
            with exporting_metrics(lambda: self._readings(pool), study=study.name):
                yield pool, coordinator
        finally:
            pool.close()
            self.opened.allowance.close()
        if coordinator.store_fault is not None:
            raise coordinator.store_fault

    def _prepare(self, pool: JobPool, *, coordinator: Coordinator) -> None:
        self._state.stage = "preparing bases and images"
        jobs = preparation_jobs(self.opened.plan, done=self.opened.prepared)
        for job in jobs:
            pool.submit(job)
        self._begin_jobs(pool)
        self._wait_for(pool)
        if coordinator.prepare_errors:
            raise PreparationError("; ".join(coordinator.prepare_errors))

    def _begin_jobs(self, pool: JobPool) -> None:
        """Begins a stage in which the pool has all that the study may hold."""
        self._fair_share.begin(
            self.opened.plan.study.resources.merge,
            num_wanted=pool.num_unfinished,
            use=lambda num: pool.resize(num, reserve=self._slots.reserves),
        )

    def _train(self, pool: JobPool, *, coordinator: Coordinator) -> None:
        """Runs pretraining and trials, and again those that failed and may be tried again.

        Trials whose base is being pretrained are in the next round.
        """
        coordinator.submit_merges(self.opened.ledger.ready_merges())
        share, slots = self.opened.plan.study.resources.trial, self._slots
        self._fair_share.begin(
            share,
            num_wanted=lambda: self._num_wanted_to_train(pool),
            use=lambda num: pool.resize(slots.beside_trials(num), reserve=slots.reserves),
        )
        while not self.stopping.is_set() and (left := self._admitted_trials()):
            self._state.stage = "fine-tuning"
            if not self._fair_share.wait_for_slot(self.stopping):
                return
            run_trials(
                left,
                worker=self.worker,
                store_url=self.opened.store_url,
                share=share,
                num_slots=lambda: slots.for_trials(self._fair_share.num_slots),
                checkpoint_every_s=self.opened.plan.study.checkpoint_every_s,
                listener=coordinator,
                stopping=self.stopping,
            )

    def _num_wanted_to_train(self, pool: JobPool) -> int:
        """Returns how many slots trials could fill, and merge workers where they hold any."""
        allowance = self.opened.allowance
        left_out = allowance.choice().left_out if allowance.is_limited else frozenset()
        num_trials = sum(run.id not in left_out for run in self.opened.ledger.runnable_trials())
        if not self._slots.reserves:
            return num_trials
        num_beside = self._slots.beside_trials(self._fair_share.num_slots)
        return num_trials + min(num_beside, pool.num_unfinished())

    def _admitted_trials(self) -> list[Run]:
        """Returns the runs that could start now and that the budget has room for."""
        self.opened.allowance.review()
        left = self.opened.ledger.runnable_trials()
        return [trial for trial in left if self.opened.allowance.has_room_for(trial.id)]

    def _merge(self, pool: JobPool, *, coordinator: Coordinator) -> None:
        """Waits for the merges, and submits those for which the budget turned out to have room."""
        self._state.stage = "merging"
        self._begin_jobs(pool)
        self._wait_for(pool)
        while not self.stopping.is_set():
            self.opened.allowance.review()
            if not coordinator.submit_merges(self.opened.ledger.ready_merges()):
                return
            self._wait_for(pool)

    def _wait_for(self, pool: JobPool) -> None:
        while not pool.is_idle() and not self.stopping.wait(POLL_S):
            pass

    def _publish(self, manifest: Manifest) -> None:
        run = run_of(manifest, ledger=self.opened.ledger)
        if run is not None and self.tracker is not None:
            self.tracker.publish(run)

    def _readings(self, pool: JobPool) -> Iterable[MetricValue]:
        return metric_values(
            self.opened.ledger,
            allowance=self.opened.allowance,
            running=frozenset(self._state.trials.copy()),
            num_jobs_waiting=pool.num_waiting(),
        )

    def _seconds_left(self) -> float | None:
        committed = self.opened.ledger.committed()
        if not committed.experts:
            return None
        now_s = time.monotonic()
        if now_s - self._estimated_s >= ESTIMATE_EVERY_S:
            left = estimate(committed, calibration=self.opened.calibration)
            self._left_s, self._estimated_s = (
                left.wall_s(num_slots=max(1, self._fair_share.num_slots)),
                now_s,
            )
        return self._left_s

"""Runs a study on a cluster until nothing is left or the run is stopped."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console

from orchestrator.cluster.protocol import Cluster, MetricValue, WorkerPool
from orchestrator.plan.multi_task import MULTI_TASK
from orchestrator.progress.display import Display
from orchestrator.progress.live_state import LiveState
from orchestrator.progress.state import publishing_progress
from orchestrator.record.failures import Failures
from orchestrator.run.coordinator import Bookkeeping, Coordinator
from orchestrator.run.current_progress import CurrentProgress
from orchestrator.run.metrics import metric_values
from orchestrator.run.opened import OpenedStudy
from orchestrator.run.slots import Slots
from orchestrator.run.stages import PreparationError, Stages
from orchestrator.run.write_outputs import load_drawing
from orchestrator.study.checks.lora import node_packages
from orchestrator.tracking.study_runs import mlflow_run_of
from orchestrator.tracking.tracker import Tracker
from workers.artifacts.manifests import Manifest
from workers.specs.measures import Measurement

STOPPING = "stopping"


@dataclass(kw_only=True)
class Session:
    """One session on a cluster: connects, starts workers and runs the stages of a study.

    A session keeps no state of its own on disk: another session continues from the store.
    """

    opened: OpenedStudy
    cluster: Cluster
    tracker: Tracker | None
    """Publishes to MLflow; None if the command publishes nothing."""
    stopping: threading.Event
    """Stops the session when it is set; running trials leave checkpoints."""
    stopping_signals: Callable[[Callable[[], None]], contextlib.AbstractContextManager[object]] = (
        contextlib.nullcontext
    )
    """Returns a context in which a signal calls a function. Outside, while the session connects, a
    signal may interrupt it at once."""
    on_cluster_lost: Callable[[str], None]
    """Ends the process. Called from a thread when the cluster no longer answers, as calls to Ray
    would hang."""
    write_progress: Callable[[bytes], None] | None = None
    """Writes the progress to the store, for `status` and `watch`; None to write nothing."""
    _state: LiveState = field(default_factory=LiveState, init=False)

    def run(self, console: Console) -> None:
        """Prepares, trains and merges until nothing is left or the run is stopped.

        A search decides after each round, and trains and merges what it has decided.

        Raises:
            PreparationError: A base, a head or a task's images could not be made.
            StoreError: The store failed, here or in a worker; another run continues from here.
            MachineError: A disk of a worker's machine is full, or a folder there is another user's.
            ConnectionError: Ray does not start, or there is no cluster at the address.
            NoRoomError: A trial's share is larger than this machine.
        """
        tallies = ("bases", "images", "experts", "merges", MULTI_TASK)
        with self._stages(console, tallies=tallies) as stages:
            stages.check_room()
            stages.prepare()
            load_drawing()
            stages.train()
            stages.merge()
            while stages.grow():
                stages.train()
                stages.merge()

    def prepare(self, console: Console) -> None:
        """Makes the bases, the heads and the images, as the first stage of `run` does.

        Raises:
            PreparationError, StoreError, MachineError, ConnectionError: As `run` does.
        """
        with self._stages(console, tallies=("bases", "images")) as stages:
            stages.prepare()

    def measure(self, specs: Sequence[Measurement], *, console: Console) -> dict[str, str]:
        """Makes measurements of a finished study's artifacts on the cluster.

        Args:
            specs: The measurements that the store lacks (`record.measurements.missing`). Stopped at
                any point, a later call makes the rest.
            console: Where to show the progress.

        Returns:
            The reason for each measurement that failed, by id.

        Raises:
            StoreError, MachineError, ConnectionError: As `run` does.
        """
        with self._stages(console, tallies=()) as stages:
            return stages.measure(specs)

    @contextlib.contextmanager
    def _stages(self, console: Console, *, tallies: Collection[str]) -> Iterator[Stages]:
        """Connects to the cluster, shows and publishes progress, and starts the workers."""
        study = self.opened.plan.study
        fair_share = self.cluster.fair_share(
            study.name, resources=study.resources, note=self._state.notes.append
        )
        progress = CurrentProgress(
            self.opened,
            state=self._state,
            stages=tallies,
            fair_share=fair_share,
            tracking=lambda: self.tracker.state() if self.tracker else "ok",
        )
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            enter(Display(self._state, console=console, current=progress.snapshot))
            enter(self.cluster.connected(self.on_cluster_lost))
            self._check_packages()
            enter(self.stopping_signals(self._stop))
            slots = Slots(
                most_trials=fair_share.max_slots(study.resources.trial),
                most_jobs=fair_share.max_slots(study.resources.merge),
                compete=study.resources.trial.gpu == 0 or study.resources.merge.gpu != 0,
            )
            enter(fair_share.reporting())
            if self.write_progress is not None:
                enter(
                    publishing_progress(
                        lambda: progress.snapshot_with(self.cluster), write=self.write_progress
                    )
                )
            with self._workers() as (pool, coordinator):
                yield Stages(
                    opened=self.opened,
                    cluster=self.cluster,
                    fair_share=fair_share,
                    slots=slots,
                    pool=pool,
                    coordinator=coordinator,
                    state=self._state,
                    stopping=self.stopping,
                )
            self._state.stage = STOPPING

    def _check_packages(self) -> None:
        """Checks that all nodes have the study's packages, before anything is scheduled.

        These are the packages of users' methods, and peft for LoRA adapters.

        Raises:
            PreparationError: A node lacks one, or has another version.
        """
        own = self.opened.plan.own_methods
        packaged = {name: each.source for name, each in own.items() if each.sha256 is None}
        packages = node_packages(self.opened.plan.study.finetune)
        if packaged or packages:
            url = self.opened.store_url
            problems = self.cluster.lacking(packages=packages, methods=packaged, store_url=url)
            if problems:
                raise PreparationError("; ".join(problems), is_input_wrong=True)

    @contextlib.contextmanager
    def _workers(self) -> Iterator[tuple[WorkerPool, Coordinator]]:
        """Starts a pool of job workers, and the coordinator that receives their events.

        Raises:
            StoreError: The store failed in a worker.
        """
        study = self.opened.plan.study
        pool = self.cluster.worker_pool(
            store_url=self.opened.store_url, share=study.resources.merge
        )
        coordinator = Coordinator(
            Bookkeeping(
                ledger=self.opened.ledger,
                budget_keeper=self.opened.budget_keeper,
                failures=Failures(self.opened.folder, retries=study.retries),
            ),
            jobs=pool,
            state=self._state,
            on_commit=self._publish,
            stop=self.stopping.set,
        )
        pool.start(coordinator.job_ended, on_progress=coordinator.job_progressed)
        try:
            with self.cluster.exporting_metrics(lambda: self._metrics(pool), study=study.name):
                yield pool, coordinator
        finally:
            pool.close()
            self.opened.budget_keeper.close()
        if coordinator.fault is not None:
            raise coordinator.fault

    def _stop(self) -> None:
        self._state.stage = STOPPING
        self._state.notes.append(
            "stopping: running trials leave checkpoints; a second Ctrl-C ends the run at once"
        )
        self.stopping.set()

    def _publish(self, manifest: Manifest) -> None:
        """Hands the MLflow run of a committed artifact to the tracker, if it has one."""
        if self.tracker is None:
            return
        try:
            run = mlflow_run_of(manifest, ledger=self.opened.ledger)
        except Exception as error:  # noqa: BLE001 a view never fails a run
            what = f"{manifest.kind} {manifest.id}"
            self._state.notes.append(f"MLflow lacks {what}: {type(error).__name__}: {error}")
            return
        if run is not None:
            self.tracker.publish(run)

    def _metrics(self, pool: WorkerPool) -> Iterable[MetricValue]:
        return metric_values(
            self.opened.ledger.state(),
            budget_keeper=self.opened.budget_keeper,
            running=frozenset(self._state.trials.copy()),
            num_jobs_waiting=pool.num_waiting(),
        )

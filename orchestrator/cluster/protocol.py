"""The operations that a run needs of a cluster, and the metrics that the cluster exports.

`RayCluster` implements the operations; tests have fakes.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.cluster.jobs import Job, JobEnd, JobQueue
from orchestrator.progress.state import InUse
from orchestrator.study.resources import Resources, Share
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress
from workers.specs.training import Training
from workers.train.memory_share import MemoryShare

METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mergesweep_trials": ("Trials of a study, pretraining included", ("study", "state")),
    "mergesweep_merges": ("Merge jobs of a study", ("study", "state")),
    "mergesweep_queue_depth": ("Trials and jobs that wait for a worker", ("study", "queue")),
    "mergesweep_gpu_seconds": ("Seconds of workers times their share of a GPU", ("study",)),
    "mergesweep_cpu_seconds": ("Seconds of workers times their cores", ("study",)),
    "mergesweep_store_bytes": ("Bytes of a study's committed files in its store", ("study",)),
}
"""Description and label names of every metric. All are gauges: they include the work of earlier
runs of the study, read from the store's manifests, so they do not begin at 0 with each run."""

STATES: Mapping[str, tuple[str, ...]] = {
    "mergesweep_trials": ("done", "running", "waiting", "left_out", "failed"),
    "mergesweep_merges": ("done", "ready", "waiting", "left_out", "failed"),
}
"""Values of the label `state`. `ready`: all experts of the merge are committed, whether or not a
worker has the job. `failed`: it, or an artifact that it needs, has failed for good. `left_out`: it
does not fit the budget."""


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """The value of a metric for one combination of labels."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


class WorkerPool(JobQueue, Protocol):
    """Worker processes for preparation and merge jobs."""

    def start(
        self,
        on_end: Callable[[JobEnd], None],
        *,
        on_progress: Callable[[Job, PreparationProgress], None] = ...,
    ) -> None:
        """Starts to run jobs; calls `on_end` once for each, from a thread of the pool."""

    def resize(self, num_workers: int, *, reserve: bool) -> None:
        """Sets the number of workers, and whether new ones hold their share of the cluster."""

    def num_waiting(self) -> int:
        """Returns the number of jobs that no worker has yet."""

    def num_unfinished(self) -> int:
        """Returns the number of jobs that were submitted and have not ended."""

    def is_idle(self) -> bool:
        """Returns whether every submitted job has ended; raises the error that broke the pool."""

    def close(self) -> None:
        """Ends the workers; running jobs are abandoned and commit nothing."""


class TrialListener(Protocol):
    """Receives the events of trials; called from the thread that runs Ray Tune."""

    def may_start(self, trial_id: str) -> bool:
        """Returns whether a trial may be given to a worker; otherwise the trial is left out."""

    def may_go_on(self) -> bool:
        """Returns whether trials may go on; all are stopped once it returns False. Asked often."""

    def trial_started(self, trial_id: str) -> None:
        """Is called when a worker has begun a trial."""

    def trial_progressed(
        self, trial_id: str, *, step: int, loss: float | None, committed: Sequence[Manifest]
    ) -> None:
        """Is called with each report of a worker."""

    def trial_failed(
        self, trial_id: str, *, error: BaseException | None, reason: str, trace: str, is_lost: bool
    ) -> None:
        """Is called when a worker raised `error` or died; `is_lost` if its node was lost."""

    def trial_paused(self, trial_id: str) -> None:
        """Is called when a trial left a checkpoint and gave its worker back; it starts again."""

    def trial_finished(self, trial_id: str) -> None:
        """Is called when a worker has committed every snapshot of a trial."""


class FairShare(Protocol):
    """The slots that a study may use now on a cluster that other studies may use too."""

    @property
    def num_slots(self) -> int:
        """The slots of the present stage that the study may use now."""

    def max_slots(self, share: Share) -> int:
        """Returns the slots that the study could use if it were alone, at least 1."""

    def check_room(self, share: Share) -> None:
        """Checks that a node has a trial's share; only says so where a node may still join.

        Raises:
            NoRoomError: The share is larger than this machine, which will not grow.
        """

    def describe(self) -> str:
        """Returns a text on the other studies and the study's part; empty if it is alone."""

    def reporting(self) -> AbstractContextManager[None]:
        """Returns a context in which the study's demand is reported every few seconds."""

    def begin_stage(
        self, share: Share, *, num_wanted: Callable[[], int], set_slots: Callable[[int], None]
    ) -> None:
        """Begins a stage of the run.

        Args:
            share: The cores and GPUs of one slot in this stage.
            num_wanted: Returns the slots that the study could fill; called from a thread.
            set_slots: Is called with the number of slots, now and after every report.
        """

    def wait_for_slot(self, stopping: threading.Event) -> bool:
        """Waits until the study may use a slot; returns False if the run is stopped."""


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """Settings that all trials of a study have in common."""

    store_url: str
    share: Share
    """The cores and GPUs of one trial."""
    checkpoint_every_s: float
    memory_of: Callable[[str], MemoryShare] | None = None
    """Returns the GPUs and micro-batch of a trial that starts now; None if all get `share`."""

    def memory(self, trial_id: str) -> MemoryShare:
        """Returns the memory of a trial that starts now."""
        return self.memory_of(trial_id) if self.memory_of else MemoryShare(gpu=self.share.gpu)

    def num_slots_of(self, memory: MemoryShare) -> int:
        """Returns how many slots a trial takes up: more than one with a larger part of a GPU."""
        return math.ceil(round(memory.gpu / self.share.gpu, 3)) if self.share.gpu else 1


class Cluster(Protocol):
    """A cluster of machines, or this machine alone."""

    def connected(self, on_lost: Callable[[str], None]) -> AbstractContextManager[None]:
        """Returns a context with a connection.

        Args:
            on_lost: Is called from a thread, with the reason, when the cluster no longer answers.

        Raises:
            ConnectionError: There is no cluster at the address.
        """

    def call_on_gpu(self, function: str, *arguments: object, num_cpus: float) -> Any:  # noqa: ANN401 by name
        """Runs a function, `module:name`, in a worker process with a whole GPU of the cluster.

        Raises:
            NoRoomError: This machine, which will not grow, has no GPU.
        """

    def fair_share(
        self, study: str, *, resources: Resources, note: Callable[[str], None]
    ) -> FairShare:
        """Returns the study's fair share; needs no connection yet.

        Args:
            study: The study's name, which other studies see.
            resources: The study's shares, priority and quota.
            note: Is called when other studies come or go, and when this one waits or goes on.
        """

    def worker_pool(self, *, store_url: str, share: Share) -> WorkerPool:
        """Returns a pool without workers."""

    def run_trials(
        self,
        trials: Sequence[Training],
        *,
        settings: TrialSettings,
        num_slots: Callable[[], int],
        listener: TrialListener,
        stopping: threading.Event,
    ) -> None:
        """Runs trials until they end; see `orchestrator.cluster.trials.run_trials`."""

    def exporting_metrics(
        self, read: Callable[[], Iterable[MetricValue]], *, study: str
    ) -> AbstractContextManager[None]:
        """Returns a context in which a study's metrics are exported every few seconds."""

    def lacking(
        self, *, packages: Sequence[str], methods: Mapping[str, str], store_url: str
    ) -> Sequence[str]:
        """Returns the nodes that lack packages or users' methods, a line for each problem.

        Args:
            packages: Import names of optional packages.
            methods: The distribution and version of each method, by name.
            store_url: The study's store.
        """

    def in_use(self) -> tuple[InUse, ...]:
        """Returns the cores and GPUs that workers of all studies hold."""

"""Runs trials and jobs on Ray: the cluster that RAY_ADDRESS names, or this machine."""

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.cluster.connection import (
    WORKER,
    call_by_name,
    check_cluster,
    in_use,
    is_own_ray,
    largest_node,
    ray_connection,
)
from orchestrator.cluster.fair_share_client import FairShareClient
from orchestrator.cluster.gauges import exporting_metrics
from orchestrator.cluster.job_pool import JobPool
from orchestrator.cluster.node_check import WORKER_PACKAGES, check_nodes
from orchestrator.cluster.protocol import MetricValue, TrialListener, TrialSettings
from orchestrator.environment.problems import NoRoomError
from orchestrator.progress.state import InUse
from orchestrator.study.resources import AUTO, Resources, Share
from workers.specs.training import Training

_TRIALS = "orchestrator.cluster.trials"


@dataclass(frozen=True, kw_only=True)
class RayCluster:
    """The cluster of `mergesweep run`; see `orchestrator.cluster.protocol.Cluster`."""

    worker: str = WORKER
    """The class that runs in worker processes, `module:Class`."""

    def check(self) -> None:
        """Checks that the Ray that RAY_ADDRESS names can be joined, without joining it.

        Raises:
            VariableError: It cannot be joined; the message says why and what to do.
        """
        check_cluster()

    @contextmanager
    def connected(self, on_lost: Callable[[str], None]) -> Iterator[None]:
        """Connects to Ray for the length of a `with` block.

        Ray Tune, which takes as long to load as Ray itself, is loaded while worker processes start.
        """
        with ray_connection(on_lost):
            threading.Thread(target=importlib.import_module, args=(_TRIALS,), daemon=True).start()
            yield

    def call_on_gpu(self, function: str, *arguments: object, num_cpus: float) -> Any:  # noqa: ANN401 by name
        """Runs a function, `module:name`, in a worker process with a whole GPU of the cluster.

        Raises:
            NoRoomError: This machine, which will not grow, has no GPU.
        """
        if is_own_ray() and largest_node()["GPU"] < 1:
            raise NoRoomError(
                f"resources.trial.gpu: {AUTO} measures the memory of trials on a GPU, and this "
                "machine has none; give a number, or set RAY_ADDRESS to the head of a cluster with "
                "GPUs"
            )
        # One call per process, so that it gives the GPU's memory back.
        call: Any = ray.remote(num_gpus=1, num_cpus=num_cpus, max_calls=1)(call_by_name)
        return ray.get(call.remote(function, *arguments))

    def fair_share(
        self, study: str, *, resources: Resources, note: Callable[[str], None]
    ) -> FairShareClient:
        """Returns the study's fair share; a Ray of this process's own has no other studies."""
        return FairShareClient(study, resources=resources, note=note, is_shared=not is_own_ray())

    def worker_pool(self, *, store_url: str, share: Share) -> JobPool:
        """Returns a pool without workers."""
        return JobPool(worker=self.worker, store_url=store_url, share=share)

    def run_trials(
        self,
        trials: Sequence[Training],
        *,
        settings: TrialSettings,
        num_slots: Callable[[], int],
        listener: TrialListener,
        stopping: threading.Event,
    ) -> None:
        """Runs trials with Ray Tune until they end."""
        from orchestrator.cluster.trials import run_trials  # noqa: PLC0415 see `connected`

        run_trials(
            trials,
            worker=self.worker,
            settings=settings,
            num_slots=num_slots,
            listener=listener,
            stopping=stopping,
        )

    def exporting_metrics(
        self, read: Callable[[], Iterable[MetricValue]], *, study: str
    ) -> AbstractContextManager[None]:
        """Returns a context in which a study's metrics are exported as Ray gauges."""
        return exporting_metrics(read, study=study)

    def lacking(
        self, *, packages: Sequence[str], methods: Mapping[str, str], store_url: str
    ) -> Sequence[str]:
        """Returns the nodes that lack packages or users' methods, a line for each problem."""
        return check_nodes(
            paths={},
            store_url=store_url,
            packages=(*WORKER_PACKAGES, *packages),
            methods=methods,
        ).problems

    def in_use(self) -> tuple[InUse, ...]:
        """Returns the cores and GPUs that Ray has allocated."""
        return in_use()

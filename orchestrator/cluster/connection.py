"""Connects to a Ray cluster: the one that RAY_ADDRESS names, or a new one on this machine."""

import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from orchestrator.progress.state import InUse

WORKER = "workers.process:Worker"
"""The class that runs in worker processes. It is named and not imported, because it loads torch,
and the driver never does."""

_NODE_DIED = "its node has died"
"""Part of Ray's message. Apart from preemption, nothing else tells the driver of a dead node."""

MAX_RESOURCES_VARIABLE = "MERGESWEEP_MAX_RESOURCES"
"""An environment variable on the head of a cluster that grows by itself: the size that it may grow
to, such as `{"CPU": 160, "GPU": 20}`. Ray's autoscaler does not tell a driver."""

CHECK_HEAD_EVERY_S = 5.0
HEAD_LOST_AFTER_S = 20.0
"""The head counts as lost when it has not answered for this long. Ray itself waits 60 s at full CPU
load and then ends the process at once."""


def is_own_ray() -> bool:
    """Returns whether a connection starts a Ray of its own, which no other driver joins."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


@contextlib.contextmanager
def ray_connection(on_lost: Callable[[str], None]) -> Iterator[None]:
    """Connects for the length of a `with` block and disconnects at its end.

    Args:
        on_lost: Is called from a thread, with the reason, when the head no longer answers.

    Raises:
        ConnectionError: There is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray warns of a change to CUDA_VISIBLE_DEVICES for tasks without GPUs, which we rely on.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = "local" if is_own_ray() else os.environ["RAY_ADDRESS"]
    local_only: dict[str, Any] = {"include_dashboard": False} if is_own_ray() else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
        **local_only,
    )
    # Slurm and Kubernetes send SIGTERM. Ray replaced its handler by one that ends the process.
    signal.signal(signal.SIGTERM, on_sigterm)
    closing = threading.Event()
    head = ray.get_runtime_context().gcs_address
    watcher = threading.Thread(target=_watch_head, args=(head, closing, on_lost), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        closing.set()
        watcher.join()
        ray.shutdown()


def _watch_head(head: str, closing: threading.Event, on_lost: Callable[[str], None]) -> None:
    """Checks whether the head's port is open, as Ray's own calls would hang."""
    host, _, port = head.rpartition(":")
    answered_s = time.monotonic()
    while not closing.wait(CHECK_HEAD_EVERY_S):
        try:
            with socket.create_connection((host, int(port)), timeout=CHECK_HEAD_EVERY_S):
                answered_s = time.monotonic()
        except OSError as error:
            if time.monotonic() - answered_s > HEAD_LOST_AFTER_S:
                on_lost(f"the Ray head at {head} no longer answers ({error})")
                return


def num_slots(*, cpu: float, gpu: float) -> int:
    """Returns how many workers with these resources fit the cluster, at least 1.

    A cluster that grows counts with the size that MERGESWEEP_MAX_RESOURCES gives.
    """
    total = total_resources()
    by_cpu = total.get("CPU", 0) / cpu
    by_gpu = total.get("GPU", 0) / gpu if gpu else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def total_resources() -> Mapping[str, float]:
    """Returns the cluster's resources, by Ray's names, when it has grown as far as it may."""
    total: dict[str, float] = json.loads(os.environ.get(MAX_RESOURCES_VARIABLE, "{}"))
    for name, amount in ray.cluster_resources().items():  # type: ignore[no-untyped-call]
        total[name] = max(total.get(name, 0), amount)
    return total


def in_use() -> tuple[InUse, ...]:
    """Returns how many cores and GPUs Ray has allocated to workers; fractions of a GPU count."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return tuple(
        InUse(name=name, used=total[name] - free.get(name, 0), total=total[name])
        for name in ("CPU", "GPU")
        if total.get(name)
    )


def is_node_lost(error: BaseException | None) -> bool:
    """Returns whether a worker ended because its node was lost, which is not its job's fault."""
    if isinstance(error, ActorUnavailableError):
        return True
    return isinstance(error, RayActorError) and (error.preempted or _NODE_DIED in str(error))


def create_worker(name: str, *, store_url: str, num_cpus: float) -> Any:  # noqa: ANN401 by name
    """Creates a worker in this process from the name of its class, `module:Class`."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)(store_url, num_cpus=num_cpus)

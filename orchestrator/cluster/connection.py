"""Connects to a Ray cluster: the one that RAY_ADDRESS names, or one on this machine."""

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
"""What runs in a worker process. Named, not imported: it loads torch, which a driver never does."""

_NODE_DIED = "its node has died"
"""In Ray's message; the only mark of a dead node that reaches the driver, preemption apart."""


MAX_RESOURCES_VARIABLE = "MERGESWEEP_MAX_RESOURCES"
"""On the head of a cluster that grows with what waits: what it may grow to, such as
`{"CPU": 160, "GPU": 20}`. Ray's autoscaler does not tell a driver."""

CHECK_HEAD_EVERY_S = 5.0
HEAD_LOST_AFTER_S = 20.0
"""Without an answer for so long the head counts as lost. Ray itself waits 60 s, at full load, and
then ends the process on the spot."""


def is_own_ray() -> bool:
    """Tells whether sessions start a Ray of their own, which no other driver joins."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


@contextlib.contextmanager
def ray_connection(on_lost: Callable[[str], None]) -> Iterator[None]:
    """Connects for the length of a `with` block and disconnects at its end.

    Args:
        on_lost: Is told, from another thread, when the cluster's head no longer answers.

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
    # Ray takes SIGTERM, which Slurm and Kubernetes send, and would end the process on the spot.
    signal.signal(signal.SIGTERM, on_sigterm)
    closing = threading.Event()
    head = ray.get_runtime_context().gcs_address
    watch = threading.Thread(target=_watch, args=(head, closing, on_lost), daemon=True)
    watch.start()
    try:
        yield
    finally:
        closing.set()
        watch.join()
        ray.shutdown()


def _watch(head: str, closing: threading.Event, on_lost: Callable[[str], None]) -> None:
    """Looks whether the head's port is open; Ray's own calls would hang."""
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
    """Returns how many workers with these resources the cluster has room for, at least one.

    On a cluster that grows: has or will have room for, as MERGESWEEP_MAX_RESOURCES says.
    """
    total = total_resources()
    by_cpu = total.get("CPU", 0) / cpu
    by_gpu = total.get("GPU", 0) / gpu if gpu else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def total_resources() -> Mapping[str, float]:
    """Returns what the cluster has, or will have when it has grown, by Ray's names."""
    total: dict[str, float] = json.loads(os.environ.get(MAX_RESOURCES_VARIABLE, "{}"))
    for name, amount in ray.cluster_resources().items():  # type: ignore[no-untyped-call]
        total[name] = max(total.get(name, 0), amount)
    return total


def in_use() -> tuple[InUse, ...]:
    """Returns how many of the cluster's cores and GPUs workers hold; a GPU's share counts."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return tuple(
        InUse(name=name, used=total[name] - free.get(name, 0), total=total[name])
        for name in ("CPU", "GPU")
        if total.get(name)
    )


def is_node_lost(error: BaseException | None) -> bool:
    """Tells whether a worker ended with its node, which is no fault of its job."""
    if isinstance(error, ActorUnavailableError):
        return True
    return isinstance(error, RayActorError) and (error.preempted or _NODE_DIED in str(error))


def create_worker(name: str, *, store_url: str, num_cpus: float) -> Any:  # noqa: ANN401 by name
    """Creates the worker of this process from its class's name, `module:Class`."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)(store_url, num_cpus=num_cpus)

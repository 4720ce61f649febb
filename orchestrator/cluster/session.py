"""Connects to a Ray cluster: the one that RAY_ADDRESS names, or one on this machine."""

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import ray

WORKER = "workers.process:Worker"
"""What runs in a worker process. Named, not imported: it loads torch, which a driver never does."""


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Connects for the length of a `with` block and disconnects at its end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray warns of a change to CUDA_VISIBLE_DEVICES for tasks without GPUs, which we rely on.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS", "local")
    local_only: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
        **local_only,
    )
    try:
        yield
    finally:
        ray.shutdown()


def num_slots(*, cpu: float, gpu: float) -> int:
    """Returns how many workers with these resources the cluster has room for, at least one."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    by_cpu = total.get("CPU", 0) / cpu
    by_gpu = total.get("GPU", 0) / gpu if gpu else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def create_worker(name: str, *, store_url: str, num_cpus: float) -> Any:  # noqa: ANN401 by name
    """Creates the worker of this process from its class's name, `module:Class`."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)(store_url, num_cpus=num_cpus)

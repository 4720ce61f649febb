"""Connects to a Ray cluster: the one that RAY_ADDRESS names, or a new one on this machine."""

import contextlib
import importlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import ray
from ray._private.gcs_utils import create_gcs_channel
from ray._private.node import Node
from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
from ray._private.services import canonicalize_bootstrap_address
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import ActorUnavailableError, RayActorError

from orchestrator.cluster.own_modules import OwnModulesConfig
from orchestrator.environment.fast_imports import collecting_later
from orchestrator.environment.problems import VariableError, VariableProblem
from orchestrator.environment.ray_directory import DIRECTORY_VARIABLE, ray_directory
from orchestrator.environment.ray_start import check_limits, start_fault
from orchestrator.environment.ray_variables import (
    ADDRESS_REMEDY,
    ADDRESS_VARIABLE,
    AUTH_MODE_VARIABLE,
    TOKEN_VARIABLE,
    has_token,
    max_resources,
    ray_address,
)
from orchestrator.progress.state import InUse
from workers.store.machine_errors import MachineError
from workers.store.protocol import StoreError
from workers.without_compiler import without_compiler

WORKER = "workers.process:Worker"
"""The class that runs in worker processes. It is named and not imported, because it loads torch,
and the driver never does."""

_NODE_DIED = "its node has died"
"""Part of Ray's message. Apart from preemption, nothing else tells the driver of a dead node."""

FIRST_ANSWER_WAIT_S = 5.0
"""Time in which the head must answer first; it may just be starting."""
_ASK_AGAIN_S = 0.5
_QUIET: dict[str, Any] = {
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": True,
}
"""Options of `ray.init`: the driver prints, and nothing else does."""
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
CHECK_HEAD_EVERY_S = 5.0
HEAD_LOST_AFTER_S = 20.0
"""The head counts as lost when it has not answered for this long. Ray itself waits 60 s at full CPU
load and then ends the process at once."""


class WorkerStartError(ConnectionError):
    """A worker process cannot load what it needs, such as torch."""


def is_own_ray() -> bool:
    """Returns whether a connection starts a Ray of its own, which no other driver joins."""
    return ray_address(os.environ) is None


def check_cluster() -> None:
    """Checks that the Ray that RAY_ADDRESS names can be joined, without joining it.

    Ray's own attempt to join a head that does not answer, or refuses the token, ends only after
    minutes, or with a message that does not say why.

    Raises:
        VariableError: Nothing answers at the address, it is no Ray head, it refuses the token, or
            it has another version of Ray.
    """
    address = ray_address(os.environ)
    if address is None:
        return
    try:
        head = canonicalize_bootstrap_address(address) or address
    except (OSError, ValueError) as error:
        reason = "no Ray runs on this machine" if address == "auto" else _one_line(error)
        raise _wrong_address(f"but {reason}") from error
    if address != "auto" and (fault := _head_fault(head)) is not None:
        raise _wrong_address(fault)


def _head_fault(head: str) -> str | None:
    """Asks a head whether it is alive; returns why it cannot be joined, None if it can."""
    until_s = time.monotonic() + FIRST_ANSWER_WAIT_S
    while True:
        try:
            version = _version_of(head, timeout_s=FIRST_ANSWER_WAIT_S)
        except grpc.RpcError as error:
            is_silent = error.code() in _NO_ANSWER
            if not is_silent or time.monotonic() > until_s:
                return _refusal(error, is_silent=is_silent)
            time.sleep(_ASK_AGAIN_S)
        else:
            return (
                None
                if version == ray.__version__
                else (
                    f"a Ray head of version {version}, but this is Ray {ray.__version__}: both "
                    "must be the same"
                )
            )


def _version_of(address: str, *, timeout_s: float) -> str:
    with create_gcs_channel(address) as channel:
        head: Any = NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
        return str(head.CheckAlive(CheckAliveRequest(), timeout=timeout_s).ray_version)


def _refusal(error: grpc.RpcError, *, is_silent: bool) -> str:
    """Returns why a head that was asked whether it is alive did not say so."""
    reason = _one_line(error.details()).rpartition(": ")[2].rstrip("]")
    if error.code() == grpc.StatusCode.UNAUTHENTICATED:
        return (
            f"a Ray head that wants another token: set {TOKEN_VARIABLE} to the token that it was "
            f"started with, and {AUTH_MODE_VARIABLE}=token"
        )
    if is_silent:
        return f"but no Ray head answers there ({reason})"
    return f"but the program that answers there is not a Ray head ({reason})"


def _wrong_address(fault: str) -> VariableError:
    problem = VariableProblem(
        name=ADDRESS_VARIABLE,
        value=os.environ[ADDRESS_VARIABLE],
        fault=fault,
        remedy=ADDRESS_REMEDY,
    )
    return VariableError([problem])


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


@contextlib.contextmanager
def ray_connection(on_lost: Callable[[str], None]) -> Iterator[None]:
    """Connects for the length of a `with` block and disconnects at its end.

    Args:
        on_lost: Is called from a thread, with the reason, when the head no longer answers.

    Raises:
        ConnectionError: Ray did not start on this machine, or the cluster at the address cannot be
            joined; the message is one line.
        VariableError: An environment variable for Ray cannot be used.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray warns of a change to CUDA_VISIBLE_DEVICES for tasks without GPUs, which we rely on.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = ray_address(os.environ)
    with _keeping_sigterm():
        if address is None:
            _start()
        else:
            _join(address)
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


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Keeps the process's handler of SIGTERM, which Slurm and Kubernetes send.

    Ray installs a handler that raises `SystemExit(15)`. A SIGTERM that it gets interrupts instead.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGTERM, before)


def _start() -> None:
    """Starts a Ray of this process's own.

    It needs no home: its token is in the environment of its processes, and not in `~/.ray`, where
    it would change how a later `ray start` behaves.
    """
    directory, variables = ray_directory(os.environ), list(os.environ)
    os.environ[DIRECTORY_VARIABLE] = str(directory.parent)
    if not has_token(os.environ):
        os.environ[TOKEN_VARIABLE] = secrets.token_hex(32)
    check_limits()
    try:
        with _without_unused_services():
            ray.init(
                address="local",
                include_dashboard=False,
                job_config=OwnModulesConfig(),
                **{**_QUIET, "logging_level": logging.CRITICAL},
            )
    except Exception as error:
        raise ConnectionError(start_fault(directory, error=error, variables=variables)) from error
    logging.getLogger("ray").setLevel(_QUIET["logging_level"])


@contextlib.contextmanager
def _without_unused_services() -> Iterator[None]:
    """Keeps a Ray of this process's own from starting three processes that do nothing for it.

    They are the autoscaler of a cluster, the dashboard, which starts even without its pages and for
    which `ray.init` waits, and the sender of workers' output to a driver that does not print it.
    Ray has no public option for them.
    """
    instead = {
        "start_monitor": lambda _: None,
        "start_log_monitor": lambda _: None,
        "start_api_server": lambda node, **_: _note_no_dashboard(node),
    }
    before = {name: getattr(Node, name) for name in instead}
    for name, method in instead.items():
        setattr(Node, name, method)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _note_no_dashboard(node: Node) -> None:
    """Tells Ray's agent a closed port: without one, it asks and logs an error every second."""
    gcs: Any = node.get_gcs_client()  # type: ignore[no-untyped-call]
    gcs.internal_kv_put(
        DASHBOARD_ADDRESS.encode(),
        b"http://127.0.0.1:1",
        overwrite=True,
        namespace=KV_NAMESPACE_DASHBOARD,
    )


def _join(address: str) -> None:
    try:
        ray.init(address=address, job_config=OwnModulesConfig(), **_QUIET)
    except Exception as error:
        reason = _one_line(error)
        raise ConnectionError(f"the Ray at {address} cannot be joined: {reason}") from error


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
    total = max_resources(os.environ)
    for name, amount in ray.cluster_resources().items():  # type: ignore[no-untyped-call]
        total[name] = max(total.get(name, 0), amount)
    return total


def largest_node() -> Mapping[str, float]:
    """Returns the most cores and GPUs that one live node has, by Ray's names."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return {name: max((each.get(name, 0) for each in nodes), default=0) for name in ("CPU", "GPU")}


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


def call_by_name(name: str, *arguments: object) -> Any:  # noqa: ANN401 by name
    """Calls a function, `module:name`, that the driver cannot import because it loads torch."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)(*arguments)


def create_worker(name: str, *, store_url: str, num_cpus: float) -> Any:  # noqa: ANN401 by name
    """Creates a worker in this process from the name of its class, `module:Class`.

    Raises:
        WorkerStartError: The class cannot be loaded or created; the message is one line.
        StoreError, MachineError: The store or a folder of this machine cannot be used.
    """
    module, _, attribute = name.partition(":")
    try:
        with collecting_later(), without_compiler():
            worker = getattr(importlib.import_module(module), attribute)
        return worker(store_url, num_cpus=num_cpus)
    except (StoreError, MachineError):
        raise
    except Exception as error:
        raise WorkerStartError(
            f"no worker process starts on {socket.gethostname()}: {type(error).__name__}: "
            f"{_one_line(error)}; this shows the traceback: {sys.executable} -c 'import {module}'"
        ) from error

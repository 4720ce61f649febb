"""Starts the servers and clusters that studies need: S3, MLflow on PostgreSQL, and Ray."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nodes import NUM_NODES, Cluster
from parts import NotReadyError, Place, free_ports, wait_until_ready
from servers import THIS_MACHINE, Database, S3Server, TrackingServer

_READY_S = 120.0
_CLUSTER_READY_S = 180.0
_FOREIGN = ("AWS_", "RAY_", "MLFLOW_", "MERGESWEEP_")

RAY_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # the default depends on earlier clusters of the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "180",  # several nodes start at once on two cores
    # A dead node is noticed after 10 s and not after half a minute.
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Servers that several studies use one after another."""

    s3: S3Server
    mlflow: TrackingServer
    environment: dict[str, str]
    """The environment of every process."""
    ports: Iterator[int]

    def new_cluster(self, folder: Path, *, num_nodes: int = NUM_NODES) -> Cluster:
        """Returns a cluster for one study, not started yet."""
        return Cluster(
            folder=folder,
            port=next(self.ports),
            num_nodes=num_nodes,
            environment=self.environment,
        )

    def wait(self) -> None:
        """Waits until the servers answer.

        Raises:
            NotReadyError: A server does not answer in time.
        """
        for server in (self.s3, self.mlflow):
            wait_until_ready(server.part, server.is_ready, timeout_s=_READY_S)


@contextlib.contextmanager
def started_surroundings(folder: Path, *, place: Place = THIS_MACHINE) -> Iterator[Surroundings]:
    """Starts the servers and kills them at the end."""
    environment = _environment()
    ports = free_ports()
    s3 = S3Server(folder=folder, ports=ports, environment=environment, place=place)
    database = Database(folder=folder, ports=ports, environment=environment, place=place)
    mlflow = TrackingServer(
        folder=folder,
        ports=ports,
        environment=environment,
        database_uri=database.uri,
        place=place,
    )
    try:
        s3.part.start()
        database.part.start()
        wait_until_ready(database.part, database.is_ready, timeout_s=_READY_S)
        mlflow.part.start()
        around = Surroundings(s3=s3, mlflow=mlflow, environment=environment, ports=ports)
        around.wait()
        yield around
    finally:
        for part in (s3.part, mlflow.part, database.part):
            part.kill()


def wait_for_cluster(cluster: Cluster) -> None:
    """Waits until all nodes have joined.

    Raises:
        NotReadyError: The nodes do not join in time.
    """
    deadline_s = time.monotonic() + _CLUSTER_READY_S
    while not cluster.is_ready():
        if time.monotonic() > deadline_s:
            raise NotReadyError(
                f"not all nodes of {cluster.address} joined within {_CLUSTER_READY_S:.0f} s"
            )
        time.sleep(0.2)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {
        **kept,
        **RAY_SETTINGS,
        "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",  # the harness reads logs while they are written
        "PYTHONFAULTHANDLER": "1",  # SIGABRT prints where a driver hangs
    }

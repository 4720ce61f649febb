"""A Ray cluster of several nodes on this machine, each a process tree that can be killed."""

from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from parts import GRPC_OFFSET, Part, title
from servers import program

NUM_NODES = 3
_STARTED = "Ray runtime started"
_WORKER = "ray::"
_NO_WORKERS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Titles of processes of Ray in which no trial or job runs."""
_OBJECT_STORE_BYTES = 100_000_000
_EPHEMERAL_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "min-worker-port",
    "max-worker-port",
)
"""Given as 0: several nodes share the machine's ports."""


class Cluster:
    """A head and further nodes, one CPU each, at one address from start to start."""

    def __init__(
        self,
        *,
        folder: Path,
        port: int,
        environment: Mapping[str, str],
        num_nodes: int = NUM_NODES,
    ) -> None:
        """Starts nothing.

        Args:
            folder: Where logs and Ray's sessions go; short, as it becomes part of socket paths.
            port: The head's.
            environment: Of all its processes.
            num_nodes: The head included.
        """
        self.address = f"{_machine_address()}:{port}"
        self._folder = folder
        self._environment = environment
        self._num_nodes = num_nodes
        self._head_options = [
            *["--head", "--port", str(port), "--include-dashboard", "false"],
            # Else 10001, which two clusters on one machine cannot share.
            *["--ray-client-server-port", str(port + GRPC_OFFSET)],
        ]
        self._num_starts = 0
        self._nodes: list[Part] = []

    def start(self) -> None:
        """Starts the head; the nodes follow in `start_waiting`, as they need one to join."""
        self._num_starts += 1
        head = self._head_options
        join = ["--address", self.address]
        names = [f"cluster-{self._num_starts}-node-{number}" for number in range(self._num_nodes)]
        self._nodes = [
            self._node(name, head if number == 0 else join, number=number)
            for number, name in enumerate(names)
        ]
        self._nodes[0].start()

    def start_waiting(self) -> None:
        """Starts the nodes that have waited for their head."""
        if self._nodes and self._nodes[0].has_printed(_STARTED):
            for node in self._nodes:
                if not node.num_starts:
                    node.start()

    def is_ready(self) -> bool:
        """Tells whether all have joined, apart from those that were killed."""
        self.start_waiting()
        running = [node for node in self._nodes if node.is_started or not node.num_starts]
        return bool(running) and all(node.has_printed(_STARTED) for node in running)

    @property
    def is_up(self) -> bool:
        """Tells whether the head runs."""
        return bool(self._nodes) and self._nodes[0].is_started

    def revive(self) -> list[str]:
        """Starts again the nodes that ended by themselves, all if it was the head; names them."""
        ended = [node for node in self._nodes if node.is_started and node.poll() is not None]
        if ended and ended[0] is self._nodes[0]:
            self.kill()
            self.start()
        else:
            for node in ended:
                node.kill()
                node.start()
        return [f"{node.name}: {node.log}" for node in ended]

    def workers(self, on: Part | None = None) -> list[psutil.Process]:
        """Returns the processes in which trials and jobs run, on one node or on all, by title.

        Those of trials, `ray::ResourceTrainable`, stand before those of jobs, `ray::_JobWorker`.
        """
        nodes = self._nodes if on is None else [on]
        found = [child for node in nodes for child in node.children()]
        titled = sorted(((title(each), each) for each in found), key=lambda pair: pair[0])
        return [
            each
            for text, each in titled
            if text.startswith(_WORKER) and not text.startswith(_NO_WORKERS)
        ]

    def followers(self) -> list[Part]:
        """Returns the nodes besides the head that run."""
        return [node for node in self._nodes[1:] if node.is_started]

    def kill(self) -> list[str]:
        """Kills all nodes, the head first, and names them."""
        names = [node.name for node in self._nodes]
        for node in self._nodes:
            node.kill()
        self._nodes = []
        return names

    def _node(self, name: str, options: list[str], *, number: int) -> Part:
        command = [
            *[program("ray"), "start", *options, "--block", "--num-cpus", "1"],
            # Of its own: nodes that start at once in one directory take each other's socket names.
            *["--temp-dir", str(self._folder / f"r{self._num_starts}n{number}")],
            *["--object-store-memory", str(_OBJECT_STORE_BYTES), "--disable-usage-stats"],
            *[part for option in _EPHEMERAL_PORTS for part in (f"--{option}", "0")],
        ]
        disk = {"MERGESWEEP_CACHE": str(self._folder / f"node-{number}-cache")}
        environment = {**self._environment, **disk}
        return Part(name, command, environment=environment, folder=self._folder)


def _machine_address() -> str:
    """Returns the address that Ray gives to nodes of this machine."""
    from ray.util import get_node_ip_address  # noqa: PLC0415 a second, of the harness alone

    return str(get_node_ip_address())  # type: ignore[no-untyped-call]

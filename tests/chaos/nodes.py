"""Runs a Ray cluster of several nodes on this machine, each a process tree that can be killed."""

from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from parts import GRPC_OFFSET, Part, title
from servers import program

NUM_NODES = 3
_STARTED = "Ray runtime started"
_WORKER = "ray::"
_NO_WORKERS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Titles of Ray processes that run no trial and no job."""
_OBJECT_STORE_BYTES = 100_000_000
_EPHEMERAL_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "min-worker-port",
    "max-worker-port",
)
"""Options that are set to 0, because several nodes share the machine's ports."""


class Cluster:
    """A Ray head and further nodes with one CPU each, always at the same address."""

    def __init__(
        self,
        *,
        folder: Path,
        port: int,
        environment: Mapping[str, str],
        num_nodes: int = NUM_NODES,
    ) -> None:
        """Configures the cluster; `start` starts it.

        Args:
            folder: Receives logs and Ray's sessions. Its path must be short, because socket paths
                contain it.
            port: The head's port.
            environment: The environment of all processes.
            num_nodes: Number of nodes, including the head.
        """
        self.address = f"{_machine_address()}:{port}"
        self._folder = folder
        self._environment = environment
        self._num_nodes = num_nodes
        self._head_options = [
            *["--head", "--port", str(port), "--include-dashboard", "false"],
            # The default, 10001, would collide between two clusters on one machine.
            *["--ray-client-server-port", str(port + GRPC_OFFSET)],
        ]
        self._num_starts = 0
        self._nodes: list[Part] = []

    def start(self) -> None:
        """Starts the head. The nodes need a head to join, so that `start_waiting` starts them."""
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
        """Starts the nodes that wait for the head, once it runs."""
        if self._nodes and self._nodes[0].has_printed(_STARTED):
            for node in self._nodes:
                if not node.num_starts:
                    node.start()

    def is_ready(self) -> bool:
        """Returns whether all nodes have joined, except killed ones."""
        self.start_waiting()
        running = [node for node in self._nodes if node.is_started or not node.num_starts]
        return bool(running) and all(node.has_printed(_STARTED) for node in running)

    @property
    def is_up(self) -> bool:
        """Whether the head runs."""
        return bool(self._nodes) and self._nodes[0].is_started

    def revive(self) -> list[str]:
        """Restarts nodes that ended by themselves, or all nodes if the head did; names them."""
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
        """Returns the processes that run trials and jobs, on one node or on all, sorted by title.

        Trials (`ray::ResourceTrainable`) come before jobs (`ray::_JobWorker`).
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
        """Returns the running nodes without the head."""
        return [node for node in self._nodes[1:] if node.is_started]

    def kill(self) -> list[str]:
        """Kills all nodes, the head first; returns their names."""
        names = [node.name for node in self._nodes]
        for node in self._nodes:
            node.kill()
        self._nodes = []
        return names

    def _node(self, name: str, options: list[str], *, number: int) -> Part:
        command = [
            *[program("ray"), "start", *options, "--block", "--num-cpus", "1"],
            # Nodes that start at once in one directory would use the same socket names.
            *["--temp-dir", str(self._folder / f"r{self._num_starts}n{number}")],
            *["--object-store-memory", str(_OBJECT_STORE_BYTES), "--disable-usage-stats"],
            *[part for option in _EPHEMERAL_PORTS for part in (f"--{option}", "0")],
        ]
        disk = {"MERGESWEEP_CACHE": str(self._folder / f"node-{number}-cache")}
        environment = {**self._environment, **disk}
        return Part(name, command, environment=environment, folder=self._folder)


def _machine_address() -> str:
    """Returns the address that Ray gives to nodes of this machine."""
    from ray.util import get_node_ip_address  # noqa: PLC0415 takes a second

    return str(get_node_ip_address())  # type: ignore[no-untyped-call]

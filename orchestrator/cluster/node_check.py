"""Checks whether every node of a cluster could run a study, before anything is scheduled."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster import node_probe

ANSWER_WAIT_S = 180.0
"""The timeout for all nodes together; each has to start a worker process."""
WORKER_PACKAGES = (
    *("boto3", "numpy", "pyarrow", "safetensors", "timm", "torch", "torchvision"),
    *("eval", "merge", "orchestrator", "workers"),
)
"""Import names of the packages that every worker process loads."""


@dataclass(frozen=True, kw_only=True)
class NodeCheck:
    """The answers of the nodes."""

    num_nodes: int
    problems: tuple[str, ...]
    """A line for each problem, with the nodes that have it; empty if all can run the study."""


def check_nodes(
    *,
    paths: Mapping[str, str],
    store_url: str,
    packages: Sequence[str] = WORKER_PACKAGES,
    methods: Mapping[str, str] | None = None,
) -> NodeCheck:
    """Runs a probe on every live node, without reserving any resources.

    Args:
        paths: Files and directories that every node must have, by the field with each.
        store_url: The store that every node writes to.
        packages: Import names that every node must find.
        methods: The distribution and version of each users' method, by name; None for none.
    """
    # By value: a node may lack our packages.
    cloudpickle.register_pickle_by_value(node_probe)  # type: ignore[no-untyped-call]
    python = ".".join(map(str, sys.version_info[:2]))
    asked = {
        _ask(
            node["NodeID"],
            packages=packages,
            paths=paths,
            store_url=store_url,
            python=python,
            methods=methods or {},
        ): f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }
    ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_WAIT_S)
    nodes_with: dict[str, list[str]] = {}
    for reference, node in asked.items():
        for problem in _answer(reference):
            nodes_with.setdefault(problem, []).append(node)
    return NodeCheck(
        num_nodes=len(asked),
        problems=tuple(
            f"on {_named(nodes, num_nodes=len(asked))}: {problem}"
            for problem, nodes in nodes_with.items()
        ),
    )


def _ask(node_id: str, **arguments: object) -> Any:  # noqa: ANN401 Ray's references are untyped here
    probe: Any = node_probe.probe_node
    task = ray.remote(probe).options(
        num_cpus=0,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    )
    return task.remote(**arguments)


def _answer(reference: Any) -> list[str]:  # noqa: ANN401 as above
    try:
        problems: list[str] = ray.get(reference, timeout=0)
    except RayError as error:
        first = next(iter(str(error).strip().splitlines()), "")
        return [f"no worker process answered within {ANSWER_WAIT_S:.0f} s ({first})"]
    return problems


def _named(nodes: Sequence[str], *, num_nodes: int) -> str:
    if len(nodes) == num_nodes:
        return "every node" if num_nodes > 1 else f"node {nodes[0]}"
    return f"node{'s' * (len(nodes) > 1)} {', '.join(nodes)}"

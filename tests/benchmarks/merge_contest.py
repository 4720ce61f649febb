"""Lists the tools that merge_speed.py compares, with each one's method and parameters."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Tool = Literal["ours", "FusionBench 0.2.33", "mergekit 0.1.5", "the floor"]

_HERE = Path(__file__).resolve().parent
_PROJECT = Path(sys.executable)
_ORACLE = Path(os.environ.get("ORACLE_PYTHON", _HERE.parents[1] / ".venv-oracle/bin/python"))

COMMANDS: dict[Tool, tuple[Path, Path]] = {
    "ours": (_PROJECT, _HERE / "merge_ours.py"),
    "FusionBench 0.2.33": (_ORACLE, _HERE.parent / "oracle/peer_fusion_bench.py"),
    "mergekit 0.1.5": (_ORACLE, _HERE.parent / "oracle/peer_mergekit.py"),
    "the floor": (_PROJECT, _HERE / "merge_floor.py"),
}
"""Interpreter and script; a script reads a request and writes a merged file and its CPU time."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tool with its name for a method and the parameters."""

    tool: Tool
    method: str
    parameters: Mapping[str, object]
    is_comparable: bool = True
    """Whether the merged weights should be close to ours."""
    remark: str = ""
    """A difference that explains other results."""


def entries_of(method: str, *, num_experts: int) -> list[Entry]:
    """Returns the entries of all tools that have a method; ours comes first.

    Raises:
        ValueError: The table has no such method.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}: choose among {', '.join(METHODS)}")
    if method == "average":
        return [*METHODS[method], _linear(num_experts)]
    return METHODS[method]


def _linear(num_experts: int) -> Entry:
    parameters = {"weight": [1.0] * num_experts}
    return Entry(tool="mergekit 0.1.5", method="linear", parameters=parameters)


METHODS: dict[str, list[Entry]] = {
    "average": [
        Entry(tool="ours", method="average", parameters={}),
        Entry(tool="the floor", method="average", parameters={}),
        Entry(tool="FusionBench 0.2.33", method="simple_average", parameters={}),
    ],
    "task_arithmetic": [
        Entry(tool="ours", method="task_arithmetic", parameters={"scaling": 0.3}),
        Entry(
            tool="FusionBench 0.2.33",
            method="task_arithmetic",
            parameters={"scaling_factor": 0.3},
        ),
        Entry(
            tool="mergekit 0.1.5",
            method="task_arithmetic",
            parameters={"weight": 1.0, "lambda": 0.3},
        ),
    ],
    "ties": [
        Entry(tool="ours", method="ties", parameters={"density": 0.2, "scaling": 0.3}),
        Entry(
            tool="FusionBench 0.2.33",
            method="ties",
            parameters={
                "scaling_factor": 0.3,
                "threshold": 20,
                "remove_keys": [],
                "merge_func": "sum",
            },
            remark="keeps one entry more, trims running statistics with the weights",
        ),
        Entry(
            tool="mergekit 0.1.5",
            method="ties",
            parameters={"weight": 1.0, "lambda": 0.3, "density": 0.2, "normalize": False},
            is_comparable=False,
            remark="trims each tensor",
        ),
    ],
    "dare": [
        Entry(tool="ours", method="dare", parameters={"density": 0.5, "scaling": 0.3}),
        Entry(
            tool="FusionBench 0.2.33",
            method="dare_task_arithmetic",
            parameters={
                "scaling_factor": 0.3,
                "sparsity_ratio": 0.5,
                "only_on_linear_weights": False,
            },
            is_comparable=False,
            remark="random",
        ),
        Entry(
            tool="mergekit 0.1.5",
            method="dare_linear",
            parameters={"weight": 1.0, "lambda": 0.3, "density": 0.5},
            is_comparable=False,
            remark="random",
        ),
    ],
    "ties_tensor": [
        Entry(
            tool="ours",
            method="ties",
            parameters={"density": 0.2, "scaling": 0.3, "scope": "tensor"},
        ),
        Entry(
            tool="mergekit 0.1.5",
            method="ties",
            parameters={"weight": 1.0, "lambda": 0.3, "density": 0.2, "normalize": False},
            remark="keeps round-down entries",
        ),
    ],
    "dare_ties": [
        Entry(tool="ours", method="dare_ties", parameters={"scaling": 0.5, "density": 0.5}),
        Entry(
            tool="FusionBench 0.2.33",
            method="dare_ties",
            parameters={
                "sparsity_ratio": 0.5,
                "only_on_linear_weights": False,
                "rescale": True,
                "scaling_factor": 0.5,
                "threshold": 20,
                "remove_keys": [],
                "merge_func": "sum",
            },
            is_comparable=False,
            remark="random",
        ),
        Entry(
            tool="mergekit 0.1.5",
            method="dare_ties",
            parameters={"weight": 1.0, "lambda": 0.5, "density": 0.5},
            is_comparable=False,
            remark="random; trims nothing",
        ),
    ],
    "breadcrumbs": [
        Entry(
            tool="ours",
            method="breadcrumbs",
            parameters={"density": 0.9, "gamma": 0.01, "scaling": 0.3},
        ),
        Entry(
            tool="mergekit 0.1.5",
            method="breadcrumbs",
            parameters={"weight": 1.0, "lambda": 0.3, "density": 0.9, "gamma": 0.01},
            remark="rounds counts down",
        ),
    ],
    "della": [
        Entry(tool="ours", method="della", parameters={"scaling": 1.0}),
        Entry(
            tool="mergekit 0.1.5",
            method="della",
            parameters={"weight": 1.0, "lambda": 1.0, "density": 0.7, "epsilon": 0.07},
            is_comparable=False,
            remark="random",
        ),
    ],
    "model_stock": [
        Entry(tool="ours", method="model_stock", parameters={}),
        Entry(tool="mergekit 0.1.5", method="model_stock", parameters={}),
    ],
    "slerp": [
        Entry(tool="ours", method="slerp", parameters={"t": 0.3}),
        Entry(tool="mergekit 0.1.5", method="slerp", parameters={"t": 0.3}),
    ],
}

"""Panels and result tables with losses that a test chooses."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.plan.plan import Plan
from orchestrator.results.schema import RESULTS_SCHEMA
from orchestrator.theory.panel import COLUMNS, Array, Panel
from workers.artifacts.manifests import FileEntry, Manifest
from workers.artifacts.metrics import DataMetrics

MakePanel = Callable[..., Panel]
Loss = Callable[[int, str, str, str], float]
"""Returns the loss of a merge, from the index of the value, the axis, the method and the task."""


@pytest.fixture
def make_panel() -> MakePanel:
    """Makes a panel of one axis from losses (S, G, T); the other columns default to these."""

    def make(loss: Array, *, values: Sequence[str] = (), **columns: Array) -> Panel:
        num_settings, num_groups, num_tasks = loss.shape
        values = values or [str(index + 1) for index in range(num_settings)]
        return Panel(
            method="average",
            settings=tuple(f"lr={value}" for value in values),
            groups=tuple(f"group {index}" for index in range(num_groups)),
            tasks=tuple(f"task {index}" for index in range(num_tasks)),
            members=np.isfinite(loss).any(axis=0),
            num_examples=np.full(num_tasks, 100.0),
            values={name: columns.get(name, loss) for name in COLUMNS},
            axes={"lr": {value: index for index, value in enumerate(values)}},
        )

    return make


@pytest.fixture(scope="session")
def make_results() -> Callable[..., pa.Table]:
    """Makes a result table: every group of two of four tasks, at every value of every axis."""

    def make(
        axes: Mapping[str, Sequence[str]], *, loss: Loss, methods: Sequence[str] = ("average",)
    ) -> pa.Table:
        groups = list(itertools.combinations("abcd", 2))
        rows = [
            {
                "study": "s",
                "axis": axis,
                "value": value,
                "setting": f"{axis}={value}",
                "method": method,
                "data_use": "none",
                "per_task_modules": False,
                "group": f"2x{number:02d}",
                "num_tasks": 2,
                "task": task,
                "held_out": False,
                "num_examples": 100,
                "accuracy": 0.5,
                "loss": loss(index, axis, method, task),
                "expert_loss": 0.5 * loss(index, axis, method, task),
                "base_loss": 3.0,
                "merge_id": f"{axis} {value} {method} {number}",
            }
            for axis, values in axes.items()
            for index, value in enumerate(values)
            for method in methods
            for number, tasks in enumerate(groups)
            for task in tasks
        ]
        return pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA)

    return make


@pytest.fixture
def data_manifests() -> Callable[[Plan], list[Manifest]]:
    """Makes the manifests of all images of a plan: 205 training images for every task."""
    metrics = DataMetrics(
        num_classes=10,
        num_train=205,
        num_test=50,
        images_per_shard=100,
        class_counts=None,
        shared=None,
        contradictions=None,
    )

    def make(plan: Plan) -> list[Manifest]:
        return [
            Manifest(
                id=spec.id,
                kind="data",
                version=1,
                spec=spec.to_json(),
                inputs={},
                attempt="0" * 16,
                code_version="0.1.0",
                files=(FileEntry(name="train.arrow", size_bytes=1, sha256="0" * 64),),
                outcome="done",
                metrics=metrics.to_json(),
                seconds={"prepare": 1.0},
                created_at_s=400.0,
            )
            for spec in plan.datasets
        ]

    return make

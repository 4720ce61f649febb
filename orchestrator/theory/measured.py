"""Arranges a study's measurements for its theory tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from orchestrator.bounds.merge_setting import coefficients_of, gives_weights
from orchestrator.bounds.study_measurements import (
    StudyMeasurements,
    cell_bounds,
    read_study_measurements,
)
from orchestrator.plan.plan import Plan
from orchestrator.results.schema import MACRO
from orchestrator.theory.answers import NOT_MEASURED
from orchestrator.theory.base_features import Coefficients, MeasuredBases
from orchestrator.theory.evidence.bound_panel import BoundsByCell
from orchestrator.theory.evidence.corollary import operator_rows
from orchestrator.theory.evidence.regime import best_steps_rows, diagnostic_rows, reach_rows
from orchestrator.theory.evidence.size_axis import Sizes, model_sizes
from orchestrator.theory.evidence.snapshot_features import Places, snapshot_places
from orchestrator.theory.evidence.vector_features import TaskVectors, task_vectors_of
from orchestrator.theory.panel import panels
from orchestrator.theory.schema import DIAGNOSTICS, OPERATORS, REACHES
from orchestrator.theory.table_rows import Columns
from workers.artifacts.artifacts import Artifacts


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything measured that the theory tables of a study are computed from."""

    bases: MeasuredBases | str
    """The constants of all settings' bases on all tasks, or why there are none."""
    bounds: BoundsByCell
    coefficients: Coefficients
    vectors: TaskVectors
    places: Places
    """The place of each setting in its trainings."""
    sizes: Sizes
    """The sizes of the models that the study varies."""
    rows: Mapping[str, Sequence[Columns]]
    """The rows of the tables that hold measurements alone, by table."""


def evidence_of(
    plan: Plan, measurements: StudyMeasurements, *, results: pa.Table, diverged: Collection[str]
) -> Evidence:
    """Returns the measurements of a study by the names that its result table has.

    Args:
        plan: The study's plan.
        measurements: Its committed measurements.
        results: The result table of its merges.
        diverged: Ids of the experts that diverged.
    """
    coefficients: dict[tuple[str, str], dict[str, float]] = {}
    for cell in plan.cells:
        values = coefficients_of(cell.merge)
        if values is not None and gives_weights(values):
            tasks = (expert.task for expert in cell.merge.experts)
            key = (cell.label, cell.group.name)
            coefficients.setdefault(key, dict(zip(tasks, values, strict=True)))
    bounds = {
        (cell.setting.name, cell.label, cell.group.name): bounds
        for cell, bounds in cell_bounds(plan, measurements, diverged=diverged)
    }
    diagnostics = [
        *diagnostic_rows(plan, measurements, bounds=list(bounds.values())),
        *best_steps_rows(plan, _losses(results)),
    ]
    return Evidence(
        bases=bases_of(plan, measurements),
        bounds=bounds,
        coefficients=coefficients,
        vectors=task_vectors_of(plan, (*measurements.operators, *measurements.seeds)),
        places=snapshot_places(plan),
        sizes=model_sizes(plan),
        rows={
            OPERATORS: list(operator_rows(plan, measurements.operators)),
            REACHES: list(reach_rows(plan, measurements)),
            DIAGNOSTICS: diagnostics,
        },
    )


def _losses(results: pa.Table) -> dict[tuple[str, str], dict[str, float]]:
    """Returns the mean loss at each value of each axis, by axis and method."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for panel in panels(results):
        whole = panel.balanced()
        loss = whole.group_means("loss", mean=MACRO)
        for axis, values in whole.axes.items():
            found[axis, panel.method] = {
                value: float(loss[at].mean()) for value, at in values.items()
            }
    return found


def measured_bases(
    artifacts: Artifacts, plan: Plan, *, cache_root: Path
) -> tuple[MeasuredBases | str, tuple[str, ...]]:
    """Returns the constants by setting, or why there are none, and the ids of all measurements.

    Raises:
        StoreError: The store failed.
    """
    found = read_study_measurements(artifacts, plan, cache_root=cache_root)
    return bases_of(plan, found), found.ids


def bases_of(plan: Plan, measurements: StudyMeasurements) -> MeasuredBases | str:
    """Returns the constants of every setting's base on every task, or why they are not known."""
    points = [spec.hyperparameters for by in plan.setting_experts for spec in by.values()]
    if not all(point.moves_all_weights for point in points):
        return "linearised experts and LoRA adapters have no measured constants"
    if not measurements.constants:
        return NOT_MEASURED
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        measured = measurements.constants.get(setting.name)
        known = () if measured is None else measured.tasks
        lacking = sorted(set(experts) - set(known))
        if lacking:
            return f"the constants of {', '.join(lacking)} at {setting.name} are not measured"
    return measurements.constants

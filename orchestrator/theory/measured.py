"""Arranges a study's measurements for its theory tables."""

from dataclasses import dataclass

from orchestrator.bounds.merge_setting import coefficients_of
from orchestrator.bounds.study_measurements import StudyMeasurements, cell_bounds
from orchestrator.plan.plan import Plan
from orchestrator.theory.answers import NOT_MEASURED
from orchestrator.theory.base_features import Coefficients, MeasuredBases
from orchestrator.theory.evidence.bound_panel import BoundsByCell


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything measured that the theory tables of a study are computed from."""

    bases: MeasuredBases | str
    """The constants of all settings' bases on all tasks, or why there are none."""
    bounds: BoundsByCell
    coefficients: Coefficients


def evidence_of(plan: Plan, measurements: StudyMeasurements) -> Evidence:
    """Returns the measurements of a study by the names that its result table has."""
    coefficients: dict[tuple[str, str], dict[str, float]] = {}
    for cell in plan.cells:
        values = coefficients_of(cell.merge)
        if values is not None:
            tasks = (expert.task for expert in cell.merge.experts)
            key = (cell.label, cell.group.name)
            coefficients.setdefault(key, dict(zip(tasks, values, strict=True)))
    return Evidence(
        bases=bases_of(plan, measurements),
        bounds={
            (cell.setting.name, cell.label, cell.group.name): bounds
            for cell, bounds in cell_bounds(plan, measurements)
        },
        coefficients=coefficients,
    )


def bases_of(plan: Plan, measurements: StudyMeasurements) -> MeasuredBases | str:
    """Returns the constants of every setting's base on every task, or why they are not known."""
    if any(spec.hyperparameters.linearised for by in plan.setting_experts for spec in by.values()):
        return "linearised experts have no measured constants"
    if not measurements.constants:
        return NOT_MEASURED
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        measured = measurements.constants.get(setting.name)
        known = () if measured is None else measured.tasks
        lacking = sorted(set(experts) - set(known))
        if lacking:
            return f"the constants of {', '.join(lacking)} at {setting.name} are not measured"
    return measurements.constants

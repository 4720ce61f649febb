"""Finds the constants of a study's bases that its store has."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.plan.measurements import sample_of
from orchestrator.plan.plan import Plan
from orchestrator.record.measurements import read_measurements
from orchestrator.record.task_constants import MeasuredTasks, read_task_constants
from orchestrator.theory.answers import NOT_MEASURED
from orchestrator.theory.base_features import MeasuredBases
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.specs.expert import ExpertSpec
from workers.specs.measures import ConstantsSpec, CurvatureSpec


def measured_bases(
    artifacts: Artifacts, plan: Plan, *, cache_root: Path
) -> tuple[MeasuredBases | str, tuple[str, ...]]:
    """Returns the constants by setting, or why there are none, and the ids of the artifacts.

    Constants with curvature are preferred to those without.

    Args:
        artifacts: The artifacts of the store.
        plan: The study's plan.
        cache_root: Directory of this machine's cache.

    Raises:
        StoreError: The store failed.
    """
    wanted = [spec for by_task in plan.setting_experts for spec in by_task.values()]
    if any(spec.hyperparameters.linearised for spec in wanted):
        return "linearised experts have no measured constants", ()
    found = read_measurements(
        artifacts, [each for spec in dict.fromkeys(wanted) for each in _constants(plan, spec)]
    )
    if not found:
        return NOT_MEASURED, ()
    by_setting: dict[str, Mapping[str, Manifest]] = {}
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        manifests = {task: _first(_constants(plan, spec), found) for task, spec in experts.items()}
        lacking = sorted(task for task, manifest in manifests.items() if manifest is None)
        if lacking:
            return f"the constants of {', '.join(lacking)} at {setting.name} are not measured", ()
        by_setting[setting.name] = {
            task: manifest for task, manifest in manifests.items() if manifest is not None
        }
    read: dict[tuple[str, ...], MeasuredTasks] = {}
    for manifests_of in by_setting.values():
        key = tuple(manifest.id for manifest in manifests_of.values())
        if key not in read:
            read[key] = read_task_constants(artifacts, manifests_of, cache_root=cache_root)
    bases = {
        name: read[tuple(manifest.id for manifest in manifests_of.values())]
        for name, manifests_of in by_setting.items()
    }
    return bases, tuple(sorted({each for key in read for each in key}))


def _constants(plan: Plan, spec: ExpertSpec) -> tuple[ConstantsSpec, ...]:
    sample = sample_of(plan, spec)
    return (
        ConstantsSpec(sample=sample, curvature=CurvatureSpec()),
        ConstantsSpec(sample=sample),
    )


def _first(specs: Sequence[ConstantsSpec], found: Mapping[str, Manifest]) -> Manifest | None:
    return next((found[spec.id] for spec in specs if spec.id in found), None)

"""Reads the measurements of a study that its store has, and the bounds that follow from them."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.bounds.merge_bounds import MergeBounds, bounds_of
from orchestrator.bounds.merge_setting import merge_setting_of
from orchestrator.plan.cells import Cell
from orchestrator.plan.measurements import operators_of, reaches_of, sample_of, seed_operators_of
from orchestrator.plan.plan import Plan
from orchestrator.record.measurements import read_measurements
from orchestrator.record.task_constants import MeasuredTasks, read_task_constants
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import OperatorMetrics, ReachMetrics
from workers.specs.expert import ExpertSpec
from workers.specs.measures import (
    EARLIER_CURVATURE,
    ConstantsSpec,
    CurvatureSpec,
    OperatorSpec,
)
from workers.specs.merge import MergeSpec


@dataclass(frozen=True, kw_only=True)
class MeasuredOperator:
    """A method's effect on the task vectors of one group at one setting."""

    merge: MergeSpec
    metrics: OperatorMetrics


@dataclass(frozen=True, kw_only=True)
class StudyMeasurements:
    """The committed measurements of a study; all parts may be empty."""

    constants: Mapping[str, MeasuredTasks]
    """The constants of each setting's base on the tasks that were measured, by setting."""
    reaches: Mapping[str, ReachMetrics]
    """Of the path to each expert, by the expert's id."""
    operators: tuple[MeasuredOperator, ...]
    """The effects of methods, those that also left experts out before the others."""
    seeds: tuple[MeasuredOperator, ...]
    """The plain averages of experts that differ in their seed alone."""
    ids: tuple[str, ...]
    """The ids of all of them, sorted."""

    def path_reach(self, experts: Iterable[ExpertSpec]) -> float | None:
        """Returns the path reach of some experts that is farthest from 0; None without any."""
        found = (self.reaches.get(expert.id) for expert in experts)
        values = [each.reach.value for each in found if each is not None and each.reach is not None]
        return max(values, key=abs, default=None)


NOTHING_MEASURED = StudyMeasurements(constants={}, reaches={}, operators=(), seeds=(), ids=())


def read_study_measurements(
    artifacts: Artifacts, plan: Plan, *, cache_root: Path
) -> StudyMeasurements:
    """Returns the measurements of a study that are committed.

    Constants with curvature are preferred to those without, and effects of methods with one expert
    left out to those without.

    Args:
        artifacts: The artifacts of the store.
        plan: The study's plan.
        cache_root: Directory of this machine's cache (`workers.artifacts.node_cache.cache_root`).

    Raises:
        StoreError: The store failed.
        CorruptArtifactError: A file differs from its manifest.
    """
    experts = [
        spec
        for spec in dict.fromkeys(spec for by in plan.setting_experts for spec in by.values())
        if spec.hyperparameters.moves_all_weights
    ]
    constants = {spec.id: constants_specs(plan, spec) for spec in experts}
    reaches = {spec.experts[0]: spec for spec in reaches_of(plan)}
    operators = [operators_of(plan, leave_one_out=leave_one_out) for leave_one_out in (True, False)]
    seeds = seed_operators_of(plan)
    found = read_measurements(
        artifacts,
        [
            *(each for specs in constants.values() for each in specs),
            *reaches.values(),
            *(each for specs in operators for each in specs),
            *seeds,
        ],
    )
    chosen = {
        expert: next((found[each.id] for each in specs if each.id in found), None)
        for expert, specs in constants.items()
    }
    return StudyMeasurements(
        constants=_by_setting(artifacts, plan, chosen, cache_root=cache_root),
        reaches={
            expert: ReachMetrics.from_json(found[spec.id].metrics)
            for expert, spec in reaches.items()
            if spec.id in found
        },
        operators=tuple(
            _measured(best, found)
            for pair in zip(*operators, strict=True)
            if (best := next((each for each in pair if each.id in found), None)) is not None
        ),
        seeds=tuple(_measured(each, found) for each in seeds if each.id in found),
        ids=tuple(sorted(found)),
    )


def _measured(spec: OperatorSpec, found: Mapping[str, Manifest]) -> MeasuredOperator:
    metrics = OperatorMetrics.from_json(found[spec.id].metrics)
    return MeasuredOperator(merge=spec.merge, metrics=metrics)


def constants_specs(plan: Plan, spec: ExpertSpec) -> tuple[ConstantsSpec, ...]:
    """Returns the constants that stand for an expert's task, the preferred ones first."""
    sample = sample_of(plan, spec)
    return (
        ConstantsSpec(sample=sample, curvature=CurvatureSpec()),
        ConstantsSpec(sample=sample, curvature=EARLIER_CURVATURE),
        ConstantsSpec(sample=sample),
    )


def cell_bounds(
    plan: Plan, measurements: StudyMeasurements, *, diverged: Collection[str]
) -> Iterator[tuple[Cell, MergeBounds]]:
    """Yields the statements about every merge that has some: one for each entry of the table.

    A merge has none if a constant of its tasks was not measured, if its method has no coefficients
    that are known before, or if these give no weights, as a negative scaling.

    Args:
        plan: The study's plan.
        measurements: Its committed measurements.
        diverged: Ids of the experts that diverged.
    """
    bounds: dict[str, MergeBounds | None] = {}
    for cell in plan.cells:
        merge = cell.merge
        if merge.id not in bounds:
            bounds[merge.id] = _bounds(
                merge,
                plan=plan,
                measured=measurements.constants.get(cell.setting.name),
                path=measurements.path_reach(merge.experts),
                has_diverged=any(expert.id in diverged for expert in merge.experts),
            )
        if (each := bounds[merge.id]) is not None:
            yield cell, each


def _bounds(
    merge: MergeSpec,
    *,
    plan: Plan,
    measured: MeasuredTasks | None,
    path: float | None,
    has_diverged: bool,
) -> MergeBounds | None:
    setting = merge_setting_of(merge, plan=plan)
    if measured is None or setting is None:
        return None
    if not all(expert.task in measured.tasks for expert in merge.experts):
        return None
    return bounds_of(merge, setting, measured=measured, path=path, has_diverged=has_diverged)


def _by_setting(
    artifacts: Artifacts,
    plan: Plan,
    chosen: Mapping[str, Manifest | None],
    *,
    cache_root: Path,
) -> dict[str, MeasuredTasks]:
    """Returns the constants of each setting; settings with the same manifests share them."""
    read: dict[tuple[str, ...], MeasuredTasks] = {}
    by_setting: dict[str, MeasuredTasks] = {}
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        manifests = {
            task: manifest
            for task, spec in experts.items()
            if (manifest := chosen.get(spec.id)) is not None
        }
        key = tuple(manifest.id for manifest in manifests.values())
        if not key:
            continue
        if key not in read:
            read[key] = read_task_constants(artifacts, manifests, cache_root=cache_root)
        by_setting[setting.name] = read[key]
    return by_setting

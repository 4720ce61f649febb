"""Says how many steps of each task merge best, from merges that chose among snapshots.

Such merges (`steps: chosen`) are compared with the number of steps that merges best if all tasks
have the same, which is chosen on the same validation images. The gain counts on test images. On
validation images it is larger, as both choices were made there: the rest is their optimism.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from orchestrator.plan.families import families
from orchestrator.plan.plan import Plan
from orchestrator.results.schema import MACRO, MEANS
from orchestrator.study.method_labels import method_labels
from orchestrator.theory.intervals import Interval, widest
from orchestrator.theory.pairs import paired_intervals
from orchestrator.theory.panel import Array, panels
from workers.artifacts.metrics import TriedPoint
from workers.specs.merge import MergeSpec
from workers.specs.snapshots import STEPS
from workers.specs.tuning import point_text

NO_SNAPSHOTS = "no two settings differ in their steps alone"
NO_VALIDATION = (
    "the study holds no validation images out of its trainings (`tasks.max_validation`), and "
    "images that experts were trained on would call for the longest training"
)
NO_PLAIN = "every entry of merge tunes parameters, and the gain is shown at fixed parameters"


@dataclass(frozen=True, kw_only=True)
class TaskSteps:
    """The numbers of steps that the merges of all groups took for one task."""

    task: str
    middle: int
    """The median over the groups, the lower one of two."""
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class GainOnTest:
    """The gain on test images: loss with common steps minus loss with each task's own, in nats."""

    mean: float
    interval: Interval
    """The wider of the paired 95 % intervals over groups and over tasks."""
    over_tasks: Interval


@dataclass(frozen=True, kw_only=True)
class ChosenSteps:
    """The steps that one method's merges chose at one setting, against common steps."""

    method: str
    setting: str
    num_groups: int
    tasks: tuple[TaskSteps, ...]
    common: TaskSteps
    """The best common number of steps of each group; its task is empty."""
    validation_gain: float
    """Loss on validation images with common steps minus loss with chosen ones; never below 0."""
    test_gain: GainOnTest | None
    """None where the tables lack merges with common steps."""


@dataclass(frozen=True, kw_only=True)
class StepsAdvice:
    """The advice on the steps of each task."""

    chosen: tuple[ChosenSteps, ...]
    missing: str = ""
    """The reason why nothing is chosen and no study can choose; empty otherwise."""
    entry: int | None = None
    """The place of the entry of `merge` whose steps a next study may choose; None if the study
    chooses already, or cannot."""

    @property
    def is_blind(self) -> bool:
        """Whether the study has snapshots, and lacks only validation images to choose by."""
        return self.missing == NO_VALIDATION


def advise_steps(results: pa.Table, *, plan: Plan, methods: Sequence[str] = ()) -> StepsAdvice:
    """Returns the advice on steps. Equal arguments give equal advice.

    Args:
        results: The result table.
        plan: The study's plan.
        methods: The methods to advise on, by their names in the table; all if empty.
    """
    chosen = [each for each in _chosen(results, plan=plan) if not methods or each.method in methods]
    if chosen or any(method.step_rule == "chosen" for method in plan.study.merge):
        return StepsAdvice(chosen=tuple(chosen))
    if not any(families(plan.settings, experts=plan.setting_experts)):
        return StepsAdvice(chosen=(), missing=NO_SNAPSHOTS)
    if plan.study.tasks.max_validation is None:
        return StepsAdvice(chosen=(), missing=NO_VALIDATION)
    entry = _best_entry(results, plan=plan, methods=methods)
    return StepsAdvice(chosen=(), missing=NO_PLAIN if entry is None else "", entry=entry)


def _best_entry(results: pa.Table, *, plan: Plan, methods: Sequence[str]) -> int | None:
    """Returns the place of the entry with the least mean loss at its best setting, if any.

    The means are over the groups that all these entries have.
    """
    entries = plan.study.merge
    places = {
        label: place
        for place, (label, method) in enumerate(zip(method_labels(entries), entries, strict=True))
        if not method.tuned and method.step_rule is None and (not methods or label in methods)
    }
    every = [each for each in panels(results, with_pools=False) if each.method in places]
    whole = [each for each in (panel.balanced() for panel in every) if each.groups]
    shared = set.intersection(*(set(each.groups) for each in whole)) if whole else set()
    least = {}
    for panel in whole if shared else ():
        in_shared = np.isin(np.array(panel.groups, dtype=object), list(shared))
        loss = panel.of_groups(in_shared).group_means("loss", mean=MACRO)
        least[panel.method] = float(loss.mean(axis=1).min())
    best = min(places, key=lambda label: least.get(label, math.inf), default=None)
    return None if best is None else places[best]


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The choice of one merge."""

    steps: Mapping[str, int]
    """By task."""
    common: int
    """The number of steps that merges best if all tasks have the same."""
    validation_gain: float
    test_gains: Mapping[str, float] | None
    """Loss with common steps minus loss with chosen ones, by task; None if one is not known.
    Tuned parameters have the value that was best with the common steps."""


def _chosen(results: pa.Table, *, plan: Plan) -> list[ChosenSteps]:
    """Returns the choices of each method at each setting where its merges stand."""
    losses: dict[str, dict[str, float]] = {}
    tried: dict[str, tuple[str, list[TriedPoint]]] = {}
    for row in results.to_pylist():
        if row["task"] not in MEANS and not row["held_out"]:
            losses.setdefault(row["merge_id"], {})[row["task"]] = row["loss"]
        elif row["task"] == MACRO and row.get("tried") is not None:
            points = [TriedPoint.from_json(each) for each in json.loads(row["tried"])]
            tried[row["merge_id"]] = row["chosen"], points
    beside = [cell.merge for cell in plan.cells if cell.merge.snapshots is None]
    plain = {
        _alike(merge.at(point.values)): losses[merge.id]
        for merge in beside
        if merge.id in tried
        for point in tried[merge.id][1]
        if point_text(point.values) == tried[merge.id][0]
    }
    plain |= {
        _alike(merge): losses[merge.id]
        for merge in beside
        if not merge.chooses and merge.id in losses
    }
    firsts = {  # a point on several axes has a cell on each
        (cell.merge.id, cell.label): cell
        for cell in reversed(plan.cells)
        if (snapshots := cell.merge.snapshots) is not None
        and snapshots.rule == "chosen"
        and cell.merge.id in tried
    }
    found: dict[tuple[str, str], list[_Choice]] = {}
    for cell in reversed(firsts.values()):
        chosen, points = tried[cell.merge.id]
        own = losses[cell.merge.id]
        choice = _choice(cell.merge, chosen=chosen, tried=points, own=own, plain=plain)
        found.setdefault((cell.label, cell.setting.name), []).append(choice)
    return [
        _summary(choices, method=method, setting=setting)
        for (method, setting), choices in found.items()
    ]


def _choice(
    merge: MergeSpec,
    *,
    chosen: str,
    tried: Sequence[TriedPoint],
    own: Mapping[str, float],
    plain: Mapping[str, Mapping[str, float]],
) -> _Choice:
    alike = [
        each
        for each in tried
        if math.isfinite(each.loss) and len(set(_steps(each.values).values())) == 1
    ]  # the descent begins at the best of them, so that one is finite
    common = min(alike, key=lambda each: (each.loss, *each.values.values()))
    best = next(each for each in tried if point_text(each.values) == chosen)
    beside = plain.get(_alike(merge.at(common.values)), {})
    gains = {task: beside.get(task, math.nan) - loss for task, loss in own.items()}
    return _Choice(
        steps=_steps(best.values),
        common=max(_steps(common.values).values()),
        validation_gain=common.loss - best.loss,
        test_gains=gains if all(map(math.isfinite, gains.values())) else None,
    )


def _steps(values: Mapping[str, float]) -> dict[str, int]:
    """Returns the steps by task, without the parameters that are chosen beside them."""
    return {
        name.removeprefix(STEPS): int(each)
        for name, each in values.items()
        if name.startswith(STEPS)
    }


def _alike(merge: MergeSpec) -> str:
    """Returns a key that merges with equal weights on equal images share."""
    return replace(merge, held_out=(), keeps_weights=False).id


def _summary(choices: Sequence[_Choice], *, method: str, setting: str) -> ChosenSteps:
    tasks = sorted({task for choice in choices for task in choice.steps})
    by_task = {task: [each.steps[task] for each in choices if task in each.steps] for task in tasks}
    gains = [each.test_gains for each in choices if each.test_gains is not None]
    return ChosenSteps(
        method=method,
        setting=setting,
        num_groups=len(choices),
        tasks=tuple(_spread(task, by_task[task]) for task in tasks),
        common=_spread("", [each.common for each in choices]),
        validation_gain=statistics.fmean(each.validation_gain for each in choices),
        test_gain=_test_gain(gains, tasks=tasks) if len(gains) == len(choices) else None,
    )


def _spread(task: str, steps: Sequence[int]) -> TaskSteps:
    middle = statistics.median_low(steps)
    return TaskSteps(task=task, middle=middle, least=min(steps), most=max(steps))


def _test_gain(gains: Sequence[Mapping[str, float]], *, tasks: Sequence[str]) -> GainOnTest:
    differences: Array = np.array([[each.get(task, math.nan) for task in tasks] for each in gains])
    weights = np.isfinite(differences) / np.isfinite(differences).sum(axis=1, keepdims=True)
    found, _ = paired_intervals(differences, weights=weights)
    mean = float((np.nan_to_num(differences) * weights).sum(axis=1).mean())
    return GainOnTest(mean=mean, interval=widest(found), over_tasks=found["tasks"])

"""Builds a study's two tables from its plan and the manifests of its artifacts."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from eval.metrics import Mean, TaskSums, macro_mean, union_mean
from orchestrator.plan.cells import Cell
from orchestrator.plan.data_use import use_columns
from orchestrator.plan.plan import Plan
from orchestrator.plan.settings import Setting
from orchestrator.record.committed import Committed
from orchestrator.results.columns import experts_schema, results_schema
from orchestrator.results.joint_columns import joint_columns
from orchestrator.results.schema import (
    EXTERNAL,
    MACRO,
    MEANS,
    MICRO_BATCH,
    SKIPPED,
    UNION,
)
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import (
    ExpertMetrics,
    MergeMetrics,
    TuningMetrics,
    num_skipped_images,
)
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.tuning import point_text

Columns = dict[str, Any]
"""Some or all columns of a row, by name."""
UNKNOWN_USE = "unknown"
"""`data_use` of models that other tools made."""
_MEANS = ((MACRO, macro_mean), (UNION, union_mean))


def results_table(committed: Committed) -> pa.Table:
    """Returns one row per cell and task, and two rows per cell for the means.

    A cell whose expert is missing has no rows, as rows show the merge beside its experts. An expert
    may be missing after `verify` has withdrawn it; the next run makes it again.
    """
    experts, skipped = expert_metrics(committed), skipped_images(committed)
    rows = [
        {**row, **skipped_column(_tasks_of(row, cell=cell), skipped=skipped)}
        for cell in committed.plan.cells
        if (merge := committed.merges.get(cell.merge.id)) is not None
        and committed.has_experts_of(cell.merge)
        for row in merge_rows(cell, plan=committed.plan, merge=merge, experts=experts)
    ]
    schema = results_schema(committed.plan, skipped=skipped)
    return pa.Table.from_pylist(rows, schema=schema)


def experts_table(committed: Committed) -> pa.Table:
    """Returns one row per setting and task, with the scores of the expert on its own task."""
    plan, metrics = committed.plan, expert_metrics(committed)
    skipped = skipped_images(committed)
    rows = [
        {
            **setting_columns(plan, setting),
            **_expert_columns(spec, metrics=metrics[spec.id]),
            "outcome": committed.experts[spec.id].outcome,
            **skipped_column([spec.task], skipped=skipped),
            MICRO_BATCH.name: committed.experts[spec.id].execution.get(MICRO_BATCH.name),
        }
        for setting, experts in zip(plan.settings, plan.setting_experts, strict=True)
        for spec in experts.values()
        if spec.id in committed.experts
    ]
    has_parts = any(row[MICRO_BATCH.name] is not None for row in rows)
    schema = experts_schema(plan, skipped=skipped)
    return pa.Table.from_pylist(rows, schema=schema.append(MICRO_BATCH) if has_parts else schema)


def skipped_images(committed: Committed) -> dict[str, int]:
    """Returns the skipped images of each prepared task; empty if no image was skipped."""
    skipped = {
        spec.task: num_skipped_images(committed.prepared[spec.id].metrics)
        for spec in committed.plan.datasets
        if spec.id in committed.prepared
    }
    return skipped if any(skipped.values()) else {}


def skipped_column(tasks: Sequence[str], *, skipped: Mapping[str, int]) -> Columns:
    """Returns the column on skipped images for a row about some tasks."""
    known = all(task in skipped for task in tasks)
    return {SKIPPED.name: sum(skipped[task] for task in tasks) if known else None}


def _tasks_of(row: Columns, *, cell: Cell) -> Sequence[str]:
    """Returns the tasks that a row of a cell is about."""
    return cell.group.tasks if row["task"] in MEANS else [row["task"]]


def expert_metrics(committed: Committed) -> dict[str, ExpertMetrics]:
    """Returns the metrics of all committed experts, by id.

    Those of the winner of a search have the test scores that its final merges have.
    """
    metrics = {
        expert_id: ExpertMetrics.from_json(manifest.metrics)
        for expert_id, manifest in committed.experts.items()
    }
    if committed.plan.study.search is not None:
        for cell in committed.plan.cells:
            if (merge := committed.merges.get(cell.merge.id)) is not None:
                metrics |= _scored_with(cell.merge, merge, experts=metrics)
    return metrics


def _scored_with(
    spec: MergeSpec, merge: Manifest, *, experts: Mapping[str, ExpertMetrics]
) -> dict[str, ExpertMetrics]:
    """Returns the metrics of a merge's experts, with the test scores that its manifest has."""
    scores = MergeMetrics.from_json(merge.metrics).experts
    return {
        each.id: replace(experts[each.id], test=scores[each.task][0], base=scores[each.task][1])
        for each in (*spec.experts, *spec.held_out)
        if each.id in experts and each.task in scores
    }


def setting_columns(plan: Plan, setting: Setting) -> Columns:
    """Returns the columns that all rows of a setting share."""
    return {
        "study": plan.study.name,
        "backbone": setting.base.model,
        "weights": setting.base.weights,
        "pretrain_steps": setting.base.pretrain_steps,
        "axis": setting.axis,
        "value": setting.value,
        "setting": setting.name,
        "extra": setting.extra,
    }


def _expert_columns(spec: ExpertSpec, *, metrics: ExpertMetrics) -> Columns:
    return {
        "task": spec.task,
        **spec.hyperparameters.columns(),
        "num_classes": metrics.training.num_classes,
        "num_examples": metrics.test.num_examples if metrics.test else 0,
        "train_loss": metrics.training.train_loss,
        **_score_columns(metrics.test),
        **_score_columns(metrics.base, prefix="base_"),
        "expert_id": spec.id,
    }


def _score_columns(sums: TaskSums | None, *, prefix: str = "") -> Columns:
    if sums is None:
        return {f"{prefix}accuracy": math.nan, f"{prefix}loss": math.nan}
    return {f"{prefix}accuracy": sums.accuracy, f"{prefix}loss": sums.loss}


def merge_rows(
    cell: Cell, *, plan: Plan, merge: Manifest, experts: Mapping[str, ExpertMetrics]
) -> Iterator[Columns]:
    """Yields the rows of one cell: one per task, held-out tasks included, and the two means.

    Args:
        cell: The cell.
        plan: The study's plan.
        merge: The manifest of the cell's merge.
        experts: Metrics by expert id, for at least the merge's experts and held-out experts.
    """
    metrics_of_merge = MergeMetrics.from_json(merge.metrics)
    experts = {**experts, **_scored_with(cell.merge, merge, experts=experts)}
    merged, tuning = metrics_of_merge.tasks, metrics_of_merge.tuning
    shared = {
        **setting_columns(plan, cell.setting),
        "method": cell.label,
        **use_columns(cell.merge),
        "group": cell.group.name,
        "num_tasks": cell.group.size,
        "merge_id": cell.merge.id,
        "pool": len(cell.merge.merged),
        **_tuning_columns(tuning),
    }
    made = cell.merge if tuning is None else cell.merge.at(tuning.chosen)
    for row in group_rows(
        made.experts,
        held_out=cell.merge.held_out,
        shared=shared,
        merged=merged,
        by_id=experts,
    ):
        yield {
            **row,
            **(_tried_column(tuning) if row["task"] == MACRO else {}),
            **joint_columns(metrics_of_merge.joint, row=row["task"], tasks=cell.group.tasks),
        }


def external_table(committed: Committed) -> pa.Table:
    """Returns the rows of models that other tools made, with the column `EXTERNAL`.

    Scores under heads that the study no longer has, because it was edited, have no rows.
    """
    metrics, skipped = expert_metrics(committed), skipped_images(committed)
    plan = committed.plan
    settings = {setting.name: index for index, setting in enumerate(plan.settings)}
    groups = {group.name: group for group in plan.groups}
    rows: list[Columns] = []
    for each in committed.external:
        experts = plan.setting_experts[settings[each.setting]] if each.setting in settings else {}
        for group in (groups[name] for name in each.groups if name in groups):
            specs = [experts[task] for task in group.tasks if task in experts]
            ids = [each.experts.get(spec.task) for spec in specs]
            if [spec.id for spec in specs] != ids or not metrics.keys() >= set(ids):
                continue
            shared = {
                **setting_columns(plan, plan.settings[settings[each.setting]]),
                "method": each.label,
                "data_use": UNKNOWN_USE,
                "per_task_modules": False,
                "group": group.name,
                "num_tasks": group.size,
                EXTERNAL.name: each.sha256,
            }
            of_group = group_rows(
                specs, held_out=(), shared=shared, merged=each.tasks, by_id=metrics
            )
            for row in of_group:
                tasks = group.tasks if row["task"] in MEANS else [row["task"]]
                rows.append({**row, **skipped_column(tasks, skipped=skipped)})
    schema = results_schema(plan, skipped=skipped).append(EXTERNAL)
    return pa.Table.from_pylist(rows, schema=schema)


def group_rows(
    members: Sequence[ExpertSpec],
    *,
    held_out: Sequence[ExpertSpec],
    shared: Columns,
    merged: Mapping[str, TaskSums],
    by_id: Mapping[str, ExpertMetrics],
) -> Iterator[Columns]:
    """Yields the rows of one model on a group: one per task, held-out ones too, and the means."""
    tuned: dict[str, TaskSums] = {}
    bases: dict[str, TaskSums] = {}
    for spec in (*members, *held_out):
        metrics = by_id[spec.id]
        assert metrics.test is not None, "only experts with finite weights are merged"
        assert metrics.base is not None
        tuned[spec.task], bases[spec.task] = metrics.test, metrics.base
        yield {
            **shared,
            **spec.hyperparameters.columns(),
            "task": spec.task,
            "held_out": spec in held_out,
            "num_examples": merged[spec.task].num_examples,
            "expert_id": spec.id,
            **_scores(merged[spec.task], expert=tuned[spec.task], base=bases[spec.task]),
        }
    yield from _mean_rows(members, shared=shared, merged=merged, experts=tuned, bases=bases)


def _tuning_columns(tuning: TuningMetrics | None) -> Columns:
    if tuning is None:
        return {}
    return {
        "chosen": point_text(tuning.chosen),
        "validation_loss": tuning.best.loss,
        "validation_accuracy": tuning.best.accuracy,
        "num_tried": len(tuning.tried),
        "validation_images": tuning.num_images,
    }


def _tried_column(tuning: TuningMetrics | None) -> Columns:
    if tuning is None:
        return {}
    return {"tried": json.dumps([each.to_json() for each in tuning.tried])}


def _mean_rows(
    members: Sequence[ExpertSpec],
    *,
    shared: Columns,
    merged: Mapping[str, TaskSums],
    experts: Mapping[str, TaskSums],
    bases: Mapping[str, TaskSums],
) -> Iterator[Columns]:
    tasks = [spec.task for spec in members]
    points = [spec.hyperparameters.columns() for spec in members]
    point = points[0] if all(each == points[0] for each in points) else {}
    for name, mean in _MEANS:
        merged_mean, expert_mean, base_mean = (
            mean([sums[task] for task in tasks]) for sums in (merged, experts, bases)
        )
        scores = _scores(merged_mean, expert=expert_mean, base=base_mean)
        if name == MACRO:
            normalized = [_ratio(merged[task].accuracy, experts[task].accuracy) for task in tasks]
            scores["normalized_accuracy"] = math.fsum(normalized) / len(tasks)
        num_examples = sum(merged[task].num_examples for task in tasks)
        yield {
            **shared,
            **point,
            "task": name,
            "held_out": False,
            "num_examples": num_examples,
            **scores,
        }


def _scores(merged: TaskSums | Mean, *, expert: TaskSums | Mean, base: TaskSums | Mean) -> Columns:
    return {
        "accuracy": merged.accuracy,
        "loss": merged.loss,
        "normalized_accuracy": _ratio(merged.accuracy, expert.accuracy),
        "expert_accuracy": expert.accuracy,
        "expert_loss": expert.loss,
        "base_accuracy": base.accuracy,
        "base_loss": base.loss,
    }


def _ratio(merged: float, expert: float) -> float:
    return merged / expert if expert else math.nan

"""Builds a study's two result tables from its plan and the manifests of what was made."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from eval.metrics import Mean, TaskSums, macro_mean, union_mean
from orchestrator.plan.data_use import use_columns
from orchestrator.plan.plan import Cell, Plan
from orchestrator.plan.settings import Setting
from orchestrator.record.committed import Committed
from orchestrator.results.schema import EXPERTS_SCHEMA, MACRO, RESULTS_SCHEMA, UNION
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics, MergeMetrics
from workers.specs.training import ExpertSpec

Row = dict[str, Any]
_MEANS = ((MACRO, macro_mean), (UNION, union_mean))


def results_table(committed: Committed) -> pa.Table:
    """Returns one row per setting, method, group and task, and two per merge for the means."""
    rows = [
        row
        for cell in committed.plan.cells
        if (merge := committed.merges.get(cell.merge.id)) is not None
        for row in merge_rows(cell, plan=committed.plan, merge=merge, experts=committed.experts)
    ]
    return pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA)


def experts_table(committed: Committed) -> pa.Table:
    """Returns one row per setting and task: the experts on their own tasks."""
    plan = committed.plan
    rows = [
        _expert_row(setting, spec=spec, manifest=committed.experts[spec.id], plan=plan)
        for setting, experts in zip(plan.settings, plan.setting_experts, strict=True)
        for spec in experts.values()
        if spec.id in committed.experts
    ]
    return pa.Table.from_pylist(rows, schema=EXPERTS_SCHEMA)


def _setting_columns(plan: Plan, setting: Setting) -> Row:
    return {
        "study": plan.study.name,
        "backbone": setting.base.model,
        "weights": setting.base.weights,
        "pretrain_steps": setting.base.pretrain_steps,
        "axis": setting.axis,
        "value": setting.value,
        "setting": setting.name,
    }


def _expert_row(setting: Setting, *, spec: ExpertSpec, manifest: Manifest, plan: Plan) -> Row:
    metrics = ExpertMetrics.from_json(manifest.metrics)
    scores = {**_columns_of(metrics.test), **_columns_of(metrics.base, prefix="base_")}
    return {
        **_setting_columns(plan, setting),
        "task": spec.task,
        **spec.hyperparameters.columns(),
        "num_classes": metrics.training.num_classes,
        "num_examples": metrics.test.num_examples if metrics.test else 0,
        "outcome": manifest.outcome,
        "train_loss": metrics.training.train_loss,
        **scores,
        "expert_id": spec.id,
    }


def _columns_of(sums: TaskSums | None, *, prefix: str = "") -> Row:
    if sums is None:
        return {f"{prefix}accuracy": math.nan, f"{prefix}loss": math.nan}
    return {f"{prefix}accuracy": sums.accuracy, f"{prefix}loss": sums.loss}


def merge_rows(
    cell: Cell, *, plan: Plan, merge: Manifest, experts: Mapping[str, Manifest]
) -> Iterator[Row]:
    """Yields the rows of one merge: one per task, held-out ones too, and the two means.

    Args:
        cell: The entry of the result table.
        plan: The study's plan.
        merge: The manifest of the cell's merge.
        experts: Manifests by id, among them those of the merge's experts, held-out ones too.
    """
    merged = MergeMetrics.from_json(merge.metrics).tasks
    shared = {
        **_setting_columns(plan, cell.setting),
        "method": cell.label,
        **use_columns(cell.merge),
        "group": cell.group.name,
        "num_tasks": cell.group.size,
        "merge_id": cell.merge.id,
    }
    tuned: dict[str, TaskSums] = {}
    bases: dict[str, TaskSums] = {}
    for spec in (*cell.merge.experts, *cell.merge.held_out):
        metrics = ExpertMetrics.from_json(experts[spec.id].metrics)
        assert metrics.test is not None, "only experts with finite weights are merged"
        assert metrics.base is not None
        tuned[spec.task], bases[spec.task] = metrics.test, metrics.base
        yield {
            **shared,
            **spec.hyperparameters.columns(),
            "task": spec.task,
            "held_out": spec in cell.merge.held_out,
            "num_examples": merged[spec.task].num_examples,
            "expert_id": spec.id,
            **_scores(merged[spec.task], expert=tuned[spec.task], base=bases[spec.task]),
        }
    yield from _mean_rows(cell, shared=shared, merged=merged, experts=tuned, bases=bases)


def _mean_rows(
    cell: Cell,
    *,
    shared: Row,
    merged: Mapping[str, TaskSums],
    experts: Mapping[str, TaskSums],
    bases: Mapping[str, TaskSums],
) -> Iterator[Row]:
    tasks = cell.group.tasks
    points = [spec.hyperparameters.columns() for spec in cell.merge.experts]
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


def _scores(merged: TaskSums | Mean, *, expert: TaskSums | Mean, base: TaskSums | Mean) -> Row:
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

"""The rows of multi-task models, which stand beside those of merges in tables and figures."""

from typing import Any

import pyarrow as pa

from eval.metrics import TaskSums
from orchestrator.plan.multi_task import MULTI_TASK
from orchestrator.record.committed import Committed
from orchestrator.results.columns import results_schema
from orchestrator.results.rows import (
    expert_metrics,
    group_rows,
    setting_columns,
    skipped_column,
    skipped_images,
)
from orchestrator.results.schema import MEANS

JOINT_TRAINING = "joint training"
"""`data_use` of multi-task models: they are trained on the labelled images of all tasks at once."""


def multi_task_table(committed: Committed) -> pa.Table:
    """Returns the rows of the committed multi-task models, in the order of the settings.

    `merge_id` is the id of the model's artifact. Models whose weights are not finite, and models
    beside a missing expert, have no rows.
    """
    metrics, skipped = expert_metrics(committed), skipped_images(committed)
    plan = committed.plan
    rows: list[dict[str, Any]] = []
    for cell in plan.multi_task:
        manifest = committed.bases.get(cell.model.id)
        members = [metrics.get(expert.id) for expert in cell.experts]
        if manifest is None or not manifest.files:
            continue
        if not all(each is not None and each.test is not None for each in members):
            continue
        scores = manifest.metrics["tasks"]
        found = group_rows(
            cell.experts,
            held_out=(),
            shared={
                **setting_columns(plan, cell.setting),
                "method": MULTI_TASK,
                "data_use": JOINT_TRAINING,
                "per_task_modules": False,
                "group": cell.group.name,
                "num_tasks": cell.group.size,
                "merge_id": cell.model.id,
            },
            merged={task: TaskSums.from_json(sums) for task, sums in scores.items()},
            by_id=metrics,
        )
        for row in found:
            tasks = cell.group.tasks if row["task"] in MEANS else [row["task"]]
            rows.append({**row, **skipped_column(tasks, skipped=skipped)})
    return pa.Table.from_pylist(rows, schema=results_schema(plan, skipped=skipped))

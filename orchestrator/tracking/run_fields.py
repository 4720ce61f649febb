"""Parameters, tags and metrics of MLflow runs, taken from cells, experts and means."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.plan.cells import Cell
from orchestrator.plan.data_use import use_columns
from orchestrator.plan.multi_task import MULTI_TASK, MultiTaskCell
from orchestrator.plan.plan import Plan
from orchestrator.plan.settings import BasePoint
from orchestrator.results.means import JOINT_COLUMNS, Metrics, Row
from orchestrator.results.schema import MEANS
from orchestrator.tracking.mlflow_run import MAX_ARTIFACT_BYTES, MetricPoint
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics, TrainingMetrics, TuningMetrics
from workers.specs.expert import ExpertSpec
from workers.specs.snapshots import STEPS, Snapshots
from workers.specs.tuning import TuningSpec

# MLflow's own tags, by which its pages fill their columns. Importing mlflow for their names would
# take seconds.
MLFLOW_SOURCE_NAME = "mlflow.source.name"
MLFLOW_SOURCE_TYPE = "mlflow.source.type"
MLFLOW_GIT_COMMIT = "mlflow.source.git.commit"

MAX_TASK_METRICS = 16
"""Largest number of tasks whose accuracies become metrics of a merge's MLflow run.

The accuracies of larger groups are in the result table only.
"""
MAX_TASK_CHARS = 200
_NOT_IN_NAMES = re.compile(r"[^\w\-. ]")


def common_tags(plan: Plan, *, kind: str, manifest: Manifest) -> dict[str, str]:
    """Returns the tags of every MLflow run; release and commit are those of the manifest."""
    release, _, commit = manifest.code_version.partition("+")
    tags = {
        "study": plan.study.name,
        "kind": kind,
        "code_version": release,
        MLFLOW_SOURCE_NAME: "mergesweep",
        MLFLOW_SOURCE_TYPE: "LOCAL",
    }
    return {**tags, "git_commit": commit, MLFLOW_GIT_COMMIT: commit} if commit else tags


def cell_tags(cell: Cell) -> dict[str, str]:
    """Returns the tags by which MLflow's page filters merges and settings."""
    return {
        "axis": cell.setting.axis,
        "value": cell.setting.value,
        "setting": cell.setting.name,
        "method": cell.label,
    }


def expert_params(spec: ExpertSpec, *, base: BasePoint) -> dict[str, str]:
    """Returns the parameters of an expert's MLflow run."""
    return _as_text(
        {
            **_base_columns(base),
            "task": spec.task,
            **spec.hyperparameters.columns(),
            "freeze_batch_norm": spec.constants.freeze_batch_norm,
            "optimizer_momentum": spec.constants.momentum,
            "optimizer_nesterov": spec.constants.nesterov,
            "head_l2": None if spec.hyperparameters.head == "trained" else spec.constants.probe_l2,
        }
    )


def cell_params(cell: Cell) -> dict[str, str]:
    """Returns the parameters that all groups of a setting and method have in common."""
    surgery = {} if cell.merge.surgery is None else asdict(cell.merge.surgery)
    is_shared = cell.setting.shared_point is not None
    return _as_text(
        {
            "method": cell.label,
            "axis": cell.setting.axis,
            "value": cell.setting.value,
            "num_tasks": cell.group.size,
            **_pool_params(cell),
            "batch_norm": cell.merge.batch_norm,
            **use_columns(cell.merge),
            **{f"surgery_{name}": value for name, value in surgery.items()},
            **{f"method_{name}": value for name, value in cell.merge.params.items()},
            **_tuning_params(cell.merge.tuning),
            **(cell.merge.experts[0].hyperparameters.columns() if is_shared else {}),
            **_step_params(cell.merge.snapshots),
            **_base_columns(cell.setting.base),
        }
    )


def multi_task_params(cell: MultiTaskCell) -> dict[str, str]:
    """Returns the parameters of a multi-task model: its setting, group and hyperparameters."""
    pretrain = cell.model.pretrain
    assert pretrain is not None, "a multi-task model is trained"
    return _as_text(
        {
            "method": MULTI_TASK,
            "axis": cell.setting.axis,
            "value": cell.setting.value,
            "num_tasks": cell.group.size,
            "group": cell.group.name,
            "tasks": " ".join(cell.group.tasks),
            **pretrain.hyperparameters.columns(),
            **_base_columns(cell.setting.base),
        }
    )


def loss_curve(
    training: TrainingMetrics, *, num_steps: int, ended_ms: int, duration_ms: int
) -> list[MetricPoint]:
    """Returns the training loss over the steps, spread evenly over the time of the training.

    Args:
        training: The metrics of an expert or of a multi-task model.
        num_steps: Steps that took the whole time.
        ended_ms: End of the training.
        duration_ms: Its time.
    """
    return [
        MetricPoint(
            name="train_loss",
            value=loss,
            step=step,
            timestamp_ms=ended_ms - duration_ms + duration_ms * step // max(1, num_steps),
        )
        for step, loss in training.train_curve
    ]


def _pool_params(cell: Cell) -> dict[str, Any]:
    if cell.setting.pool is None:
        return {}
    return {"pool": cell.setting.pool, "extra": cell.setting.extra}


def _tuning_params(tuning: TuningSpec | None) -> dict[str, str]:
    if tuning is None:
        return {}
    tried = {f"tuned_{name}": " ".join(map(str, each)) for name, each in tuning.values.items()}
    return {**tried, "tuned_by": tuning.by}


def _step_params(snapshots: Snapshots | None) -> dict[str, str]:
    """Returns the rule in place of the steps, and the steps to choose from."""
    if snapshots is None:
        return {}
    return {"steps": snapshots.rule, "tried_steps": " ".join(map(str, snapshots.counts))}


def tuning_points(tuning: TuningMetrics, *, timestamp_ms: int) -> list[MetricPoint]:
    """Returns the chosen values, and the curve of all values with a step for each that was tried.

    At a step, `tried_<parameter>` is the value and `validation_loss` its loss. Of chosen steps, the
    first tasks have a metric, and `results.parquet` has all, with those that were tried.
    """
    params_first = sorted(tuning.chosen.items(), key=lambda item: item[0].startswith(STEPS))
    shown = params_first[:MAX_TASK_METRICS]
    chosen = {f"chosen_{_metric_of(name)}": float(value) for name, value in shown}
    points = metric_points(chosen, step=0, timestamp_ms=timestamp_ms)
    for step, each in enumerate(tuning.tried):
        scores = {
            f"tried_{name}": float(value)
            for name, value in each.values.items()
            if not name.startswith(STEPS)
        }
        scores |= {"validation_loss": each.loss, "validation_accuracy": each.accuracy}
        points += metric_points(scores, step=step, timestamp_ms=timestamp_ms)
    return points


def expert_scores(metrics: ExpertMetrics) -> dict[str, float]:
    """Returns the scores of an expert and of the base; none if the weights are not finite."""
    return {
        f"{prefix}{name}": value
        for prefix, sums in (("test_", metrics.test), ("base_", metrics.base))
        if sums is not None
        for name, value in (("accuracy", sums.accuracy), ("loss", sums.loss))
    }


def merge_scores(rows: Iterable[Row]) -> dict[str, float]:
    """Returns both means of a merge, and the accuracies of its tasks if they are few.

    Args:
        rows: The rows of the result table for one cell.
    """
    by_task = {row["task"]: row for row in rows}
    scores: dict[str, float] = {}
    for name in MEANS:
        row = by_task.pop(name)
        scores |= {
            f"{name}_accuracy": row["accuracy"],
            f"{name}_loss": row["loss"],
            f"{name}_normalized_accuracy": row["normalized_accuracy"],
            f"{name}_base_accuracy": row["base_accuracy"],
            f"{name}_gain": row["accuracy"] - row["base_accuracy"],
        }
        for column in JOINT_COLUMNS:
            if row.get(column) is not None:
                scores[f"{name}_{column}"] = row[column]
    if len(by_task) <= MAX_TASK_METRICS:
        scores |= {f"accuracy/{_plain(task)}": row["accuracy"] for task, row in by_task.items()}
    return scores


def run_key(*parts: str) -> str:
    """Returns the key of an MLflow run; MLflow's search has no escape for quotation marks."""
    return "/".join(parts).replace("'", "%27")


def fitting_artifacts(artifacts: Mapping[str, bytes], *, first: str) -> dict[str, bytes]:
    """Returns the artifact `first` and the smallest others, as many as an MLflow run may have."""
    fitting: dict[str, bytes] = {}
    num_left = MAX_ARTIFACT_BYTES
    in_order = sorted(artifacts.items(), key=lambda item: (item[0] != first, len(item[1])))
    for path, content in in_order:
        if len(content) <= num_left:
            num_left -= len(content)
            fitting[path] = content
    return fitting


def spread_scores(metrics: Metrics, *, prefix: str) -> dict[str, float]:
    """Returns the means and spreads of a setting under one of the two means."""
    scores: dict[str, float] = {}
    for name in ("accuracy", "loss"):
        spread = getattr(metrics, name)
        scores |= {
            f"{prefix}_{name}_mean": spread.mean,
            f"{prefix}_{name}_std": spread.std,
            f"{prefix}_{name}_stderr": spread.stderr,
        }
    scores |= {f"{prefix}_gain_mean": metrics.gain.mean, f"{prefix}_gain_std": metrics.gain.std}
    scores[f"{prefix}_normalized_accuracy_mean"] = metrics.normalized_accuracy.mean
    scores[f"{prefix}_base_accuracy_mean"] = metrics.base_accuracy.mean
    scores[f"{prefix}_expert_accuracy_mean"] = metrics.expert_accuracy.mean
    for name in ("accuracy", "loss", "gain", "normalized_accuracy"):
        spread = getattr(metrics, name)
        if spread.num_groups and spread.num_not_finite:  # a mean over fewer groups than the others
            scores[f"{prefix}_{name}_num_groups"] = spread.num_groups
    for name in JOINT_COLUMNS:
        joint = getattr(metrics, name)
        if joint is not None and joint.num_groups:
            scores[f"{prefix}_{name}_mean"] = joint.mean
    return scores


def axis_value(value: str) -> dict[str, float]:
    """Returns a setting's value as a metric for the x axis of charts; nothing for a name."""
    try:
        return {"axis_value": float(value)}
    except ValueError:
        return {}


def metric_points(
    scores: Mapping[str, float], *, step: int, timestamp_ms: int
) -> list[MetricPoint]:
    """Returns one metric point per score."""
    return [
        MetricPoint(name=name, value=value, step=step, timestamp_ms=timestamp_ms)
        for name, value in scores.items()
    ]


def end_ms(manifest: Manifest) -> int:
    """Returns the time at which an artifact was committed."""
    return int(manifest.created_at_s * 1000)


def _metric_of(name: str) -> str:
    """Returns a chosen value's name with the characters of a metric's name."""
    return STEPS + _plain(name.removeprefix(STEPS)) if name.startswith(STEPS) else name


def _plain(task: str) -> str:
    """Returns a task's name with the characters and the length of a metric's name."""
    return _NOT_IN_NAMES.sub("_", task)[:MAX_TASK_CHARS]


def _base_columns(base: BasePoint) -> dict[str, Any]:
    return {
        "backbone": base.model,
        "weights": base.weights,
        "pretrain_steps": base.pretrain_steps,
    }


def _as_text(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value is not None}

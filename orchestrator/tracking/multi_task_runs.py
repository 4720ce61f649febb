"""Makes the MLflow runs of multi-task models, which stand beside those of merges."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from orchestrator.plan.multi_task import MultiTaskCell
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.results.means import Row
from orchestrator.results.study_results import StudyResults
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.notes import multi_task_note
from orchestrator.tracking.protocol import NOTE_TAG
from orchestrator.tracking.run_fields import (
    common_tags,
    end_ms,
    loss_curve,
    merge_scores,
    metric_points,
    multi_task_params,
)
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import TrainingMetrics


def multi_task_runs(
    committed: Committed, *, results: StudyResults
) -> Iterator[tuple[str, Callable[[], MlflowRun]]]:
    """Yields a key and a function for the MLflow run of each multi-task model in the tables.

    A model of several settings is shown under the first one. Models without rows have no MLflow
    run: their weights are not finite, or an expert beside them is missing.
    """
    rows: dict[tuple[str, str, str], list[Row]] = {}
    for row in [] if results.multi_task is None else results.multi_task.to_pylist():
        rows.setdefault((row["merge_id"], row["axis"], row["value"]), []).append(row)
    seen: set[str] = set()
    for cell in committed.plan.multi_task:
        of_cell = rows.get((cell.model.id, cell.setting.axis, cell.setting.value))
        if of_cell is None or cell.model.id in seen:
            continue
        seen.add(cell.model.id)
        manifest = committed.bases[cell.model.id]
        make = partial(_run, cell, plan=committed.plan, manifest=manifest, rows=of_cell)
        yield _key(cell), make


def _key(cell: MultiTaskCell) -> str:
    return f"multi_task/{cell.model.id}"


def _run(cell: MultiTaskCell, *, plan: Plan, manifest: Manifest, rows: Sequence[Row]) -> MlflowRun:
    """Returns the MLflow run of one model: hyperparameters, loss curve and scores."""
    ended_ms = end_ms(manifest)
    duration_ms = int(sum(manifest.seconds.values()) * 1000)
    measured = TrainingMetrics.from_json(manifest.metrics)
    curve = loss_curve(
        measured, num_steps=measured.steps_taken, ended_ms=ended_ms, duration_ms=duration_ms
    )
    scores = merge_scores(rows)
    return MlflowRun(
        key=_key(cell),
        kind="multi_task",
        name=f"multi-task {cell.group.name} {cell.setting.name}",
        start_ms=ended_ms - duration_ms,
        end_ms=ended_ms,
        status="FINISHED",
        params=multi_task_params(cell),
        tags={
            **common_tags(plan, kind="multi_task", manifest=manifest),
            "setting": cell.setting.name,
            "group": cell.group.name,
            "model_id": cell.model.id,
            NOTE_TAG: multi_task_note(cell, scores=scores),
        },
        metrics=[*curve, *metric_points(scores, step=0, timestamp_ms=ended_ms)],
    )

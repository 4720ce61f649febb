"""Says what MLflow shows of a study: one tracked run for each expert, merge, setting and report.

Everything is taken from manifests, timestamps included, so that the same study published twice, or
into an empty MLflow, gives the same runs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.plan.data_use import use_columns
from orchestrator.plan.plan import Cell, Plan
from orchestrator.plan.settings import BasePoint, Setting
from orchestrator.record.committed import Committed
from orchestrator.record.ledger import Ledger
from orchestrator.results.means import Metrics, SettingMean, setting_means
from orchestrator.results.rows import Row, merge_rows, results_table
from orchestrator.results.schema import MEANS
from orchestrator.tracking.runs import MetricPoint, TrackedRun
from orchestrator.tracking.views import AxisView, curve_run
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics
from workers.specs.training import ExpertSpec

CURVE_METRICS = (
    "macro_accuracy_mean",
    "macro_loss_mean",
    "union_accuracy_mean",
    "union_loss_mean",
)
MAX_TASK_METRICS = 16
"""Tasks whose accuracies are metrics of a merge's run; larger groups have them in the tables."""


def tracked_runs(committed: Committed) -> Iterator[TrackedRun]:
    """Yields every run that can be told from what is committed: experts, settings, merges."""
    yield from expert_runs(committed)
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in committed.plan.cells:
        if cell.merge.id in committed.merges:
            cells.setdefault((cell.setting.name, cell.label), []).append(cell)
    means = setting_means(results_table(committed))
    for mean in means:
        yield setting_run(mean, cells=cells[mean.setting, mean.method], committed=committed)
    yield from curve_runs(committed, means=means)
    plan, experts = committed.plan, committed.experts
    for merge_id, manifest in committed.merges.items():
        yield merge_run(plan.first_cells[merge_id], plan=plan, manifest=manifest, experts=experts)


def run_of(manifest: Manifest, *, ledger: Ledger) -> TrackedRun | None:
    """Returns the run of one committed artifact, None for a base or images."""
    if manifest.kind == "merge":
        cell = ledger.plan.first_cells[manifest.id]
        experts = ledger.experts_of(cell.merge)
        return merge_run(cell, plan=ledger.plan, manifest=manifest, experts=experts)
    if manifest.kind == "expert":
        spec = ledger.plan.experts[manifest.id]
        settings = ledger.plan.settings_of[manifest.id]
        return expert_run(spec, manifest=manifest, settings=settings, plan=ledger.plan)
    return None


def expert_runs(committed: Committed) -> Iterator[TrackedRun]:
    """Yields a run for each committed expert."""
    plan = committed.plan
    for expert_id, spec in plan.experts.items():
        manifest = committed.experts.get(expert_id)
        if manifest is not None:
            settings = plan.settings_of[expert_id]
            yield expert_run(spec, manifest=manifest, settings=settings, plan=plan)


def expert_run(
    spec: ExpertSpec, *, manifest: Manifest, settings: Sequence[Setting], plan: Plan
) -> TrackedRun:
    """Returns the run of one expert: its hyperparameters, loss curve and scores."""
    end_ms, steps = _end_ms(manifest), spec.hyperparameters.steps
    duration_ms = int(manifest.seconds.get("trial", 0) * 1000)
    measured = ExpertMetrics.from_json(manifest.metrics)
    curve = [
        MetricPoint(
            name="train_loss",
            value=loss,
            step=step,
            timestamp_ms=end_ms - duration_ms + duration_ms * step // max(1, steps),
        )
        for step, loss in measured.training.train_curve
    ]
    scores = {
        f"{prefix}{name}": value
        for prefix, sums in (("test_", measured.test), ("base_", measured.base))
        if sums is not None
        for name, value in (("accuracy", sums.accuracy), ("loss", sums.loss))
    }
    return TrackedRun(
        key=f"expert/{spec.id}",
        kind="expert",
        name=f"{spec.task} {settings[0].name}",
        start_ms=end_ms - duration_ms,
        end_ms=end_ms,
        status="FINISHED",
        params={**_base_params(settings[0].base), **_point_params(spec)},
        tags={
            **_tags(plan, kind="expert", manifest=manifest),
            "task": spec.task,
            "expert_id": spec.id,
            "settings": "; ".join(dict.fromkeys(setting.name for setting in settings)),
            "outcome": manifest.outcome,
        },
        metrics=[*curve, *_points(scores, step=steps, timestamp_ms=end_ms)],
    )


def merge_run(
    cell: Cell, *, plan: Plan, manifest: Manifest, experts: Mapping[str, Manifest]
) -> TrackedRun:
    """Returns the run of one merge, a child of the run of its setting and method.

    Args:
        cell: The first entry of the result table that shows the merge.
        plan: The study's plan.
        manifest: The merge's manifest.
        experts: Manifests by id, among them those of the merge's experts, held-out ones too.
    """
    end_ms = _end_ms(manifest)
    duration_ms = int(sum(manifest.seconds.values()) * 1000)
    return TrackedRun(
        key=f"merge/{cell.merge.id}",
        parent_key=_setting_key(cell),
        kind="merge",
        name=f"{cell.label} {cell.group.name} {cell.setting.name}",
        start_ms=end_ms - duration_ms,
        end_ms=end_ms,
        status="FINISHED",
        params={
            **_cell_params(cell),
            "group": cell.group.name,
            "tasks": " ".join(cell.group.tasks),
        },
        tags={
            **_tags(plan, kind="merge", manifest=manifest),
            **_cell_tags(cell),
            "group": cell.group.name,
            "merge_id": cell.merge.id,
        },
        metrics=_points(
            _merge_scores(merge_rows(cell, plan=plan, merge=manifest, experts=experts)),
            step=0,
            timestamp_ms=end_ms,
        ),
    )


def setting_run(mean: SettingMean, *, cells: Sequence[Cell], committed: Committed) -> TrackedRun:
    """Returns the run of a method at a setting: mean and spread over the groups."""
    manifests = [committed.merges[cell.merge.id] for cell in cells]
    last = max(manifests, key=lambda manifest: manifest.created_at_s)
    start_ms = min(int(manifest.created_at_s * 1000) for manifest in manifests)
    scores = {
        key: value
        for name in MEANS
        for key, value in _spreads(mean.under(name), prefix=name).items()
    }
    axis_value = _number(cells[0].setting.value)
    return TrackedRun(
        key=_setting_key(cells[0]),
        kind="setting",
        name=f"{cells[0].label} {cells[0].setting.name}",
        start_ms=start_ms,
        end_ms=_end_ms(last),
        status="FINISHED",
        params=_cell_params(cells[0]),
        tags={**_tags(committed.plan, kind="setting", manifest=last), **_cell_tags(cells[0])},
        metrics=_points(
            {**scores, **axis_value, "num_groups": len(cells)}, step=0, timestamp_ms=_end_ms(last)
        ),
    )


def axis_views(plan: Plan) -> tuple[AxisView, ...]:
    """Returns the charts that MLflow's page offers: one set for each axis."""
    values: dict[str, dict[str, None]] = {}
    for setting in plan.settings:
        values.setdefault(setting.axis, {})[setting.value] = None
    return tuple(
        AxisView(axis=axis, values=tuple(found), metrics=CURVE_METRICS)
        for axis, found in values.items()
    )


def curve_runs(committed: Committed, *, means: Sequence[SettingMean]) -> Iterator[TrackedRun]:
    """Yields a run for each method on each axis: its mean accuracy and loss at every value.

    A value whose groups are not all there is left out: a point of a curve cannot be taken back.
    """
    if not committed.merges:
        return
    num_groups = Counter((cell.setting.name, cell.label) for cell in committed.plan.cells)
    made = [manifest.created_at_s for manifest in committed.merges.values()]
    for view in axis_views(committed.plan):
        whole = [
            mean
            for mean in means
            if mean.axis == view.axis and mean.num_groups == num_groups[mean.setting, mean.method]
        ]
        for method in dict.fromkeys(mean.method for mean in whole):
            yield curve_run(
                view,
                method=method,
                means={mean.value: _curve_point(mean) for mean in whole if mean.method == method},
                start_ms=int(min(made) * 1000),
                end_ms=int(max(made) * 1000),
            )


def _curve_point(mean: SettingMean) -> dict[str, float]:
    return {
        f"{name}_{quantity}_mean": getattr(mean.under(name), quantity).mean
        for name in MEANS
        for quantity in ("accuracy", "loss")
    }


def report_run(committed: Committed, *, artifacts: Mapping[str, bytes]) -> TrackedRun:
    """Returns the run that carries the study's figures and report."""
    manifests = [*committed.merges.values(), *committed.experts.values()]
    last = max(manifests, key=lambda manifest: manifest.created_at_s)
    return TrackedRun(
        key="report",
        kind="report",
        name=f"report of {committed.plan.study.name}",
        start_ms=min(int(manifest.created_at_s * 1000) for manifest in manifests),
        end_ms=_end_ms(last),
        status="FINISHED",
        tags=_tags(committed.plan, kind="report", manifest=last),
        artifacts=artifacts,
    )


def _setting_key(cell: Cell) -> str:
    return f"setting/{cell.setting.name}/{cell.label}"


def _tags(plan: Plan, *, kind: str, manifest: Manifest) -> dict[str, str]:
    release, _, commit = manifest.code_version.partition("+")
    tags = {"study": plan.study.name, "kind": kind, "code_version": release}
    return {**tags, "git_commit": commit} if commit else tags


def _cell_tags(cell: Cell) -> dict[str, str]:
    return {
        "axis": cell.setting.axis,
        "value": cell.setting.value,
        "setting": cell.setting.name,
        "method": cell.label,
    }


def _point_params(spec: ExpertSpec) -> dict[str, str]:
    point = {
        "task": spec.task,
        **spec.hyperparameters.columns(),
        "freeze_batch_norm": spec.constants.freeze_batch_norm,
        "optimizer_momentum": spec.constants.momentum,
        "optimizer_nesterov": spec.constants.nesterov,
        "head_l2": None if spec.hyperparameters.head == "trained" else spec.constants.probe_l2,
    }
    return {name: str(value) for name, value in point.items() if value is not None}


def _base_params(base: BasePoint) -> dict[str, str]:
    return {
        "backbone": base.model,
        "weights": base.weights,
        "pretrain_steps": str(base.pretrain_steps),
    }


def _cell_params(cell: Cell) -> dict[str, str]:
    params: dict[str, Any] = {
        "method": cell.label,
        "axis": cell.setting.axis,
        "value": cell.setting.value,
        "num_tasks": cell.group.size,
        "batch_norm": cell.merge.batch_norm,
        **use_columns(cell.merge),
        **{f"surgery_{name}": value for name, value in _surgery(cell).items()},
        **{f"method_{name}": value for name, value in cell.merge.params.items()},
        **_shared_columns(cell),
        **_base_params(cell.setting.base),
    }
    return {name: str(value) for name, value in params.items() if value is not None}


def _shared_columns(cell: Cell) -> dict[str, Any]:
    if cell.setting.shared_point is None:
        return {}
    return cell.merge.experts[0].hyperparameters.columns()


def _surgery(cell: Cell) -> dict[str, Any]:
    return {} if cell.merge.surgery is None else asdict(cell.merge.surgery)


def _merge_scores(of_merge: Iterable[Row]) -> dict[str, float]:
    rows = {row["task"]: row for row in of_merge}
    scores: dict[str, float] = {}
    for name in MEANS:
        row = rows.pop(name)
        scores |= {
            f"{name}_accuracy": row["accuracy"],
            f"{name}_loss": row["loss"],
            f"{name}_normalized_accuracy": row["normalized_accuracy"],
            f"{name}_base_accuracy": row["base_accuracy"],
        }
    if len(rows) <= MAX_TASK_METRICS:
        scores |= {f"accuracy/{task}": row["accuracy"] for task, row in rows.items()}
    return scores


def _spreads(metrics: Metrics, *, prefix: str) -> dict[str, float]:
    scores: dict[str, float] = {}
    for name in ("accuracy", "loss"):
        spread = getattr(metrics, name)
        scores |= {
            f"{prefix}_{name}_mean": spread.mean,
            f"{prefix}_{name}_std": spread.std,
            f"{prefix}_{name}_stderr": spread.stderr,
        }
    scores[f"{prefix}_normalized_accuracy_mean"] = metrics.normalized_accuracy.mean
    scores[f"{prefix}_base_accuracy_mean"] = metrics.base_accuracy.mean
    scores[f"{prefix}_expert_accuracy_mean"] = metrics.expert_accuracy.mean
    return scores


def _number(value: str) -> dict[str, float]:
    """Returns the setting's value as a metric, so that charts can have it on an axis."""
    try:
        return {"axis_value": float(value)}
    except ValueError:
        return {}


def _points(scores: Mapping[str, float], *, step: int, timestamp_ms: int) -> list[MetricPoint]:
    return [
        MetricPoint(name=name, value=value, step=step, timestamp_ms=timestamp_ms)
        for name, value in scores.items()
    ]


def _end_ms(manifest: Manifest) -> int:
    return int(manifest.created_at_s * 1000)

"""Makes the MLflow runs of a study: one per expert, merge, setting, curve and report.

All content is taken from manifests, timestamps included. So a study that is published twice, or
into an empty MLflow, gives the same MLflow runs.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from orchestrator.plan.cells import Cell
from orchestrator.plan.plan import Plan
from orchestrator.plan.settings import Setting
from orchestrator.record.committed import Committed
from orchestrator.record.folder import REPORT_FILE
from orchestrator.record.ledger import Ledger
from orchestrator.results.means import Row, SettingMean
from orchestrator.results.rows import merge_rows
from orchestrator.results.schema import MEANS
from orchestrator.results.study_results import StudyResults
from orchestrator.tracking.mlflow_run import MAX_METRIC_KEYS, MlflowRun
from orchestrator.tracking.multi_task_runs import multi_task_runs
from orchestrator.tracking.notes import expert_note, merge_note, setting_note
from orchestrator.tracking.protocol import NOTE_TAG
from orchestrator.tracking.run_fields import (
    axis_value,
    cell_params,
    cell_tags,
    common_tags,
    end_ms,
    expert_params,
    expert_scores,
    fitting_artifacts,
    loss_curve,
    merge_scores,
    metric_points,
    run_key,
    spread_scores,
    tuning_points,
)
from orchestrator.tracking.views import AxisView, curve_run
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics, tuning_of
from workers.specs.expert import ExpertSpec

CURVE_METRICS = (
    "macro_accuracy_mean",
    "macro_loss_mean",
    "union_accuracy_mean",
    "union_loss_mean",
)
"""The metrics of every curve, each with a chart of its own."""


Make = Callable[[], MlflowRun]
"""Makes one MLflow run; may raise anything, for example ValueError for what MLflow refuses."""


def mlflow_runs(
    committed: Committed,
    *,
    results: StudyResults,
    leave_out: Callable[[str, Exception], None],
) -> Iterator[MlflowRun]:
    """Yields the MLflow runs of all committed experts and models, of settings and curves.

    Args:
        committed: The study's committed artifacts.
        results: The results of the same snapshot.
        leave_out: Is called with the key of an MLflow run that cannot be made, and with the error;
            the others follow.
    """
    for key, make in _makes(committed, results=results):
        try:
            run = make()
        except Exception as error:  # noqa: BLE001 a view never fails a run
            leave_out(key, error)
        else:
            yield run


def _makes(committed: Committed, *, results: StudyResults) -> Iterator[tuple[str, Make]]:
    """Yields a key and a function for each MLflow run."""
    plan = committed.plan
    for expert_id, spec in plan.experts.items():
        manifest = committed.experts.get(expert_id)
        if manifest is not None:
            settings = plan.settings_of[expert_id]
            make = partial(_expert_run, spec, manifest=manifest, settings=settings, plan=plan)
            yield f"expert/{expert_id}", make
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in committed.plan.cells:
        if cell.merge.id in committed.merges:
            cells.setdefault((cell.setting.name, cell.label), []).append(cell)
    for mean in results.means:
        of_mean = cells[mean.setting, mean.method]
        make = partial(_setting_run, mean, cells=of_mean, committed=committed)
        yield _setting_key(of_mean[0]), make
    yield from _curve_runs(committed, means=results.means)
    for merge_id, rows in results.rows_by_merge().items():
        cell, manifest = plan.first_cells[merge_id], committed.merges[merge_id]
        make = partial(_merge_run, cell, plan=plan, manifest=manifest, rows=rows)
        yield f"merge/{merge_id}", make
    yield from multi_task_runs(committed, results=results)


def mlflow_run_of(manifest: Manifest, *, ledger: Ledger) -> MlflowRun | None:
    """Returns the MLflow run of a committed expert or merge; None for any other artifact.

    Also None for a merge whose expert is missing: see `results_table`. And for a merge of a search
    that is evaluated on validation images: the tables have no rows of it.
    """
    plan = ledger.plan
    if manifest.kind == "merge":
        cell = plan.first_cells[manifest.id]
        if cell.merge.evaluate_on == "validation":
            return None
        committed = ledger.experts_of(cell.merge)
        if any(spec.id not in committed for spec in cell.merge.members):
            return None
        experts = {
            expert_id: ExpertMetrics.from_json(expert.metrics)
            for expert_id, expert in committed.items()
        }
        rows = merge_rows(cell, plan=plan, merge=manifest, experts=experts)
        return _merge_run(cell, plan=plan, manifest=manifest, rows=rows)
    if manifest.kind == "expert":
        settings = plan.settings_of[manifest.id]
        spec = plan.experts[manifest.id]
        return _expert_run(spec, manifest=manifest, settings=settings, plan=plan)
    return None


def report_run(
    committed: Committed,
    *,
    report: bytes,
    drawn: Mapping[str, bytes],
    faults: Mapping[str, str],
) -> MlflowRun:
    """Returns the MLflow run that holds the study's figures and report.

    Figures that would make it too large for MLflow are left out; its description names them.

    Args:
        committed: The study's committed artifacts, at least one.
        report: The report as HTML.
        drawn: The content of each figure, by file name.
        faults: Why a figure could not be drawn, by file name.
    """
    artifacts = {f"figures/{name}": content for name, content in drawn.items()}
    artifacts[REPORT_FILE] = report
    fitting = fitting_artifacts(artifacts, first=REPORT_FILE)
    lacks = [f"{name}: {fault}" for name, fault in faults.items()]
    lacks += [f"{path}: too large" for path in artifacts if path not in fitting]
    text = f"Left out: {'; '.join(lacks)}." if lacks else "Figures and report, under Artifacts."
    manifests = [*committed.merges.values(), *committed.experts.values()]
    last = max(manifests, key=lambda manifest: manifest.created_at_s)
    return MlflowRun(
        key="report",
        kind="report",
        name=f"report of {committed.plan.study.name}",
        start_ms=min(map(end_ms, manifests)),
        end_ms=end_ms(last),
        status="FINISHED",
        tags={**common_tags(committed.plan, kind="report", manifest=last), NOTE_TAG: text},
        artifacts=fitting,
    )


def axis_views(plan: Plan) -> tuple[AxisView, ...]:
    """Returns the charts that MLflow's page offers for each axis."""
    values: dict[str, dict[str, None]] = {}
    for setting in plan.settings:
        values.setdefault(setting.axis, {})[setting.value] = None
    return tuple(
        AxisView(axis=axis, values=tuple(found), metrics=CURVE_METRICS)
        for axis, found in values.items()
    )


def _expert_run(
    spec: ExpertSpec, *, manifest: Manifest, settings: Sequence[Setting], plan: Plan
) -> MlflowRun:
    """Returns the MLflow run of one expert: hyperparameters, loss curve and scores."""
    ended_ms, steps = end_ms(manifest), spec.hyperparameters.steps
    duration_ms = int(manifest.seconds.get("trial", 0) * 1000)
    measured = ExpertMetrics.from_json(manifest.metrics)
    curve = loss_curve(
        measured.training, num_steps=steps, ended_ms=ended_ms, duration_ms=duration_ms
    )
    scores = metric_points(expert_scores(measured), step=steps, timestamp_ms=ended_ms)
    return MlflowRun(
        key=f"expert/{spec.id}",
        kind="expert",
        name=f"{spec.task} {settings[0].name}",
        start_ms=ended_ms - duration_ms,
        end_ms=ended_ms,
        status="FINISHED",
        params=expert_params(spec, base=settings[0].base),
        tags={
            **common_tags(plan, kind="expert", manifest=manifest),
            "task": spec.task,
            "expert_id": spec.id,
            "settings": "; ".join(dict.fromkeys(setting.name for setting in settings)),
            "outcome": manifest.outcome,
            NOTE_TAG: expert_note(spec.task, setting=settings[0].name, measured=measured),
        },
        metrics=[*curve, *scores],
    )


def _merge_run(cell: Cell, *, plan: Plan, manifest: Manifest, rows: Iterable[Row]) -> MlflowRun:
    """Returns the MLflow run of one merge, a child of the one of its setting and method.

    Args:
        cell: The first cell of the result table that shows the merge.
        plan: The study's plan.
        manifest: The merge's manifest.
        rows: The rows of the cell.
    """
    ended_ms = end_ms(manifest)
    duration_ms = int(sum(manifest.seconds.values()) * 1000)
    scores = merge_scores(rows)
    tuning = tuning_of(manifest.metrics)
    choice = [] if tuning is None else tuning_points(tuning, timestamp_ms=ended_ms)
    num_left = MAX_METRIC_KEYS - len({point.name for point in choice})
    scores = dict(list(scores.items())[:num_left])  # both means come first, then the tasks
    return MlflowRun(
        key=f"merge/{cell.merge.id}",
        parent_key=_setting_key(cell),
        kind="merge",
        name=f"{cell.label} {cell.group.name} {cell.setting.name}",
        start_ms=ended_ms - duration_ms,
        end_ms=ended_ms,
        status="FINISHED",
        params={
            **cell_params(cell),
            "group": cell.group.name,
            "tasks": " ".join(cell.group.tasks),
        },
        tags={
            **common_tags(plan, kind="merge", manifest=manifest),
            **cell_tags(cell),
            "group": cell.group.name,
            "merge_id": cell.merge.id,
            NOTE_TAG: merge_note(cell, scores=scores),
        },
        metrics=[*metric_points(scores, step=0, timestamp_ms=ended_ms), *choice],
    )


def _setting_run(mean: SettingMean, *, cells: Sequence[Cell], committed: Committed) -> MlflowRun:
    """Returns the MLflow run of a method at a setting: means and spreads over the groups."""
    manifests = [committed.merges[cell.merge.id] for cell in cells]
    last = max(manifests, key=lambda manifest: manifest.created_at_s)
    scores = {
        key: value
        for name in MEANS
        for key, value in spread_scores(mean.under(name), prefix=name).items()
    }
    scores |= {**axis_value(cells[0].setting.value), "num_groups": len(cells)}
    return MlflowRun(
        key=_setting_key(cells[0]),
        kind="setting",
        name=f"{cells[0].label} {cells[0].setting.name}",
        start_ms=min(map(end_ms, manifests)),
        end_ms=end_ms(last),
        status="FINISHED",
        params=cell_params(cells[0]),
        tags={
            **common_tags(committed.plan, kind="setting", manifest=last),
            **cell_tags(cells[0]),
            NOTE_TAG: setting_note(mean),
        },
        metrics=metric_points(scores, step=0, timestamp_ms=end_ms(last)),
    )


def _curve_runs(
    committed: Committed, *, means: Sequence[SettingMean]
) -> Iterator[tuple[str, Make]]:
    """Yields a key and a function per axis and method: mean accuracy and loss at every value.

    A value at which some groups are missing is left out, because MLflow cannot delete a point.
    """
    if not committed.merges:
        return
    num_groups = Counter((cell.setting.name, cell.label) for cell in committed.plan.cells)
    last = max(committed.merges.values(), key=end_ms)
    started_ms = min(map(end_ms, committed.merges.values()))
    tags = common_tags(committed.plan, kind="curve", manifest=last)
    for view in axis_views(committed.plan):
        whole = [
            mean
            for mean in means
            if mean.axis == view.axis and mean.num_groups == num_groups[mean.setting, mean.method]
        ]
        for method in dict.fromkeys(mean.method for mean in whole):
            of_method = {mean.value: _curve_point(mean) for mean in whole if mean.method == method}
            make = partial(
                curve_run,
                view,
                method=method,
                means=of_method,
                start_ms=started_ms,
                end_ms=end_ms(last),
                tags=tags,
            )
            yield f"curve/{view.axis}/{method}", make


def _curve_point(mean: SettingMean) -> dict[str, float]:
    """Returns the means at one value; NaN where a group has no finite number."""
    found = {
        f"{name}_{quantity}_mean": getattr(mean.under(name), quantity)
        for name in MEANS
        for quantity in ("accuracy", "loss")
    }
    return {
        name: math.nan if spread.num_not_finite else spread.mean for name, spread in found.items()
    }


def _setting_key(cell: Cell) -> str:
    return run_key("setting", cell.setting.name, cell.label)

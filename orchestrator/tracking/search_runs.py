"""Makes the MLflow runs of a search: one per candidate and rung."""

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.plan.candidates import candidate_name
from orchestrator.record.committed import Committed
from orchestrator.search.summary import SearchSummary
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.protocol import NOTE_TAG
from orchestrator.tracking.run_fields import common_tags, end_ms, metric_points
from workers.artifacts.manifests import Manifest


def search_runs(committed: Committed, *, summary: SearchSummary) -> Iterator[MlflowRun]:
    """Yields an MLflow run for each row of the table of candidates.

    The searched values, the candidate and its rung are parameters, and the objective is a metric,
    so that MLflow's own parallel coordinates and scatter plots show the search.
    """
    plan = committed.plan
    manifests: dict[str, list[Manifest]] = {}
    for cell in plan.candidate_cells:
        found = committed.merges.get(cell.merge.id)
        manifests.setdefault(cell.setting.value, []).extend([found] if found else [])
    for setting, experts in zip(plan.candidate_settings, plan.candidate_experts, strict=True):
        trained = (committed.experts.get(each.id) for each in experts.values())
        manifests.setdefault(setting.value, []).extend(filter(None, trained))
    has_rungs = plan.study.search is not None and plan.study.search.halving is not None
    for row in summary.candidates.to_pylist():
        name = candidate_name(row["candidate"], steps=row["steps"] if has_rungs else None)
        last = max(manifests[name], key=lambda manifest: manifest.created_at_s)
        yield _candidate_run(row, name=name, last=last, summary=summary, committed=committed)


def _candidate_run(
    row: Mapping[str, Any],
    *,
    name: str,
    last: Manifest,
    summary: SearchSummary,
    committed: Committed,
) -> MlflowRun:
    shown = ("candidate", "batch", "rung", "steps", *summary.dimensions)
    params = {each: str(row[each]) for each in shown if row[each] is not None}
    scores = {
        f"validation_{summary.metric}": row["objective"],
        "trained_steps": float(row["trained_steps"]),
        "prior": row.get("prior"),
    }
    return MlflowRun(
        key=f"candidate/{row['candidate']}/{row['rung']}",
        kind="candidate",
        name=f"candidate {name}",
        start_ms=end_ms(last),
        end_ms=end_ms(last),
        status="FINISHED",
        params={key.replace("@", " of "): value for key, value in params.items()},
        tags={
            **common_tags(committed.plan, kind="candidate", manifest=last),
            "outcome": row["outcome"],
            "method": str(row["method"]),
            NOTE_TAG: f"Candidate {name} of the search: {row['outcome']}.",
        },
        metrics=metric_points(
            {key: value for key, value in scores.items() if value is not None},
            step=0,
            timestamp_ms=end_ms(last),
        ),
    )

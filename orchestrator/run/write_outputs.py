"""Leaves behind what a study is for: tables, report, and the last of the MLflow runs."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import pyarrow as pa

from orchestrator.costs.budget_lines import budget_lines
from orchestrator.plan.plan import plan_digest
from orchestrator.record.committed import Committed
from orchestrator.record.folder import REPORT_FILE
from orchestrator.record.outputs import store_outputs
from orchestrator.report.figures import figures
from orchestrator.report.page import render_report
from orchestrator.results.rows import experts_table, results_table
from orchestrator.run.opened import OpenedStudy
from orchestrator.tracking.runs import TrackedRun
from orchestrator.tracking.study_runs import report_run, tracked_runs
from workers.artifacts.code_version import code_version


def write_outputs(opened: OpenedStudy) -> tuple[pa.Table, str]:
    """Writes both tables and the report to the store; returns the results and the page."""
    committed = opened.ledger.committed()
    results, page = results_table(committed), report_page(opened)
    store_outputs(
        opened.folder,
        results=results,
        experts=experts_table(committed),
        page=page,
        committed=_ids_by_kind(committed),
    )
    return results, page


def _ids_by_kind(committed: Committed) -> Mapping[str, Iterable[str]]:
    planned, prepared = committed.plan.prepared_ids, committed.prepared.keys()
    return {
        **{kind: prepared & ids for kind, ids in planned.items() if ids},
        "expert": committed.experts,
        "merge": committed.merges,
    }


def report_page(opened: OpenedStudy) -> str:
    """Returns the report of what a study has so far."""
    committed = opened.ledger.committed()
    return render_report(
        study=opened.plan.study.name,
        results=results_table(committed),
        experts=experts_table(committed),
        holes=opened.ledger.state().holes(),
        facts=_facts(opened),
        study_yaml=opened.text,
    )


def publish_outputs(
    committed: Committed, *, results: pa.Table, page: str, publish: Callable[[TrackedRun], None]
) -> None:
    """Hands every run of the study to tracking; what it has already costs nothing there."""
    for run in tracked_runs(committed):
        publish(run)
    if committed.merges:
        artifacts = {f"figures/{name}": content for name, content in figures(results).items()}
        publish(report_run(committed, artifacts={**artifacts, REPORT_FILE: page.encode()}))


def _facts(opened: OpenedStudy) -> Mapping[str, str]:
    ledger, committed = opened.ledger, opened.ledger.committed()
    manifests = (*committed.experts.values(), *committed.merges.values())
    made = [each.created_at_s for each in manifests]
    span = [datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%d %H:%M UTC") for at in made]
    counts, lacks = ledger.state().counts(), opened.lacks_in_mlflow()
    budget = "; ".join(budget_lines(ledger.plan, allowance=opened.allowance))
    return {
        "store": opened.store_url,
        "plan": plan_digest(ledger.plan),
        "experts": f"{counts.num_experts_done} of {counts.num_experts}",
        "merge jobs": f"{counts.num_merges_done} of {counts.num_merges}",
        "made": f"{min(span)} to {max(span)}" if span else "nothing yet",
        **({"budget": budget.removeprefix("budget: ")} if budget else {}),
        **({"MLflow": f"lacks {lacks}; mergesweep track sends them"} if lacks else {}),
        "code version": f"mergesweep {code_version()}",
    }

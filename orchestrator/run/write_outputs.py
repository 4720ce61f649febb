"""Writes a study's tables and report to its store, and its MLflow runs to tracking."""

import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pyarrow as pa

from orchestrator.costs.budget import budget_lines
from orchestrator.plan.plan import plan_digest
from orchestrator.record.committed import Committed
from orchestrator.record.data_check import prepared_data
from orchestrator.record.outputs import store_outputs
from orchestrator.report.figures import Figures, figures, on_white
from orchestrator.report.fitting import one_line_of
from orchestrator.report.page import render_fault, render_report
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.search.summary import search_summary
from orchestrator.search.table import candidates_table
from orchestrator.theory.answers import Answers
from orchestrator.theory.stored import stored_answers
from orchestrator.tracking.mlflow_run import MlflowRun
from orchestrator.tracking.search_runs import search_runs
from orchestrator.tracking.study_runs import mlflow_runs, report_run
from orchestrator.tracking.theory_runs import theory_runs
from workers.artifacts.code_version import code_version

_DRAWING = ("orchestrator.report.charts", "orchestrator.report.row_charts")


def load_drawing() -> None:
    """Loads what draws figures from a thread, while workers compute: a run need not wait for it."""

    def load() -> None:
        with suppress(Exception):  # the report says it, as it loads them again
            for module in _DRAWING:
                importlib.import_module(module)

    threading.Thread(target=load, name="drawing", daemon=True).start()


def write_outputs(
    opened: OpenedStudy, *, results: StudyResults, drawn: Figures | None = None
) -> str:
    """Writes both tables and the report to the store; returns the report's HTML.

    Args:
        opened: The study.
        results: Its results.
        drawn: The figures of `results.compared`; None to draw them.
    """
    page = report_or_fault(opened, results=results, drawn=drawn)
    store_outputs(
        opened.folder,
        results=results.rows,
        experts=results.experts,
        page=page,
        committed=_ids_by_kind(opened.ledger.committed()),
        candidates=None if opened.plan.study.search is None else _candidates(opened),
    )
    return page


def _candidates(opened: OpenedStudy) -> pa.Table:
    return candidates_table(opened.ledger.committed())


def report_page(opened: OpenedStudy, *, results: StudyResults, drawn: Figures | None = None) -> str:
    """Returns the HTML of the report on the results that a study has so far; see `write_outputs`.

    Raises:
        Exception: A part of the page that is made here cannot be made.
    """
    return render_report(
        study=opened.plan.study.name,
        results=results,
        holes=opened.ledger.state().holes(),
        datasets=prepared_data(opened.ledger.committed()),
        facts=_facts(opened),
        study_yaml=opened.text,
        answers=stored_answers(opened.folder, results=results.merges),
        search=search_summary(opened.ledger.committed()),
        drawn=drawn,
    )


def report_or_fault(
    opened: OpenedStudy, *, results: StudyResults, drawn: Figures | None = None
) -> str:
    """Returns the report, or a page that says why there is none: a view never fails a run."""
    try:
        return report_page(opened, results=results, drawn=drawn)
    except Exception as error:  # noqa: BLE001 drawing may raise anything
        fault = f"{type(error).__name__}: {error}"
        return render_fault(study=opened.plan.study.name, fault=fault)


def publish_outputs(
    committed: Committed,
    *,
    results: StudyResults,
    make_page: Callable[[Figures | None], str],
    publish: Callable[[MlflowRun], None],
    answers: Answers | None = None,
) -> str:
    """Hands every MLflow run of a study to tracking, which skips those that MLflow already has.

    An MLflow run that cannot be made is left out. The run with the report comes last: drawing the
    figures takes seconds, in which the publisher's process sends the others.

    Args:
        committed: The study's committed artifacts.
        results: The results of the same snapshot.
        make_page: Returns the report's HTML, given the figures, or None if all of them failed; its
            errors are raised.
        publish: Takes one MLflow run.
        answers: The theory tables of the same snapshot; None if there are none.

    Returns:
        What was left out, in one line; empty if nothing was.
    """
    left_out: dict[str, Exception] = {}
    with _leaving_out_the_rest(left_out):
        for run in mlflow_runs(committed, results=results, leave_out=left_out.__setitem__):
            publish(run)
        for run in () if answers is None else theory_runs(committed, answers=answers):
            publish(run)
        if (summary := search_summary(committed)) is not None:
            for run in search_runs(committed, summary=summary):
                publish(run)
    drawn: Figures | None = None
    with _leaving_out_the_rest(left_out):
        drawn = figures(results.compared)  # once for report and MLflow, as it takes seconds
    report = make_page(drawn).encode()
    with _leaving_out_the_rest(left_out):
        if committed.merges and drawn is not None:
            shown = {name: on_white(content) for name, content in drawn.files.items()}
            publish(report_run(committed, report=report, drawn=shown, faults=drawn.faults))
    return _left_out_line(left_out)


@contextmanager
def _leaving_out_the_rest(left_out: dict[str, Exception]) -> Iterator[None]:
    """Notes an error of the `with` block, as a view never fails a run."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 making an MLflow run may raise anything
        left_out["the rest"] = error


def _left_out_line(left_out: Mapping[str, Exception]) -> str:
    if not left_out:
        return ""
    key, error = next(iter(left_out.items()))
    others = f" (and {len(left_out) - 1:,} more)" if len(left_out) > 1 else ""
    return f"MLflow lacks what cannot be made for it: {key}: {one_line_of(error)}{others}"


def _ids_by_kind(committed: Committed) -> Mapping[str, Iterable[str]]:
    planned, prepared = committed.plan.prepared_ids, committed.prepared.keys()
    return {
        **{kind: prepared & ids for kind, ids in planned.items() if ids},
        "expert": committed.experts,
        "merge": committed.merges,
    }


def _facts(opened: OpenedStudy) -> Mapping[str, str]:
    """Returns names and texts for the end of the report."""
    ledger, committed = opened.ledger, opened.ledger.committed()
    manifests = (*committed.experts.values(), *committed.merges.values())
    commits = [
        datetime.fromtimestamp(each.created_at_s, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
        for each in manifests
    ]
    counts, pending = ledger.state().counts(), opened.missing_in_mlflow()
    budget = "; ".join(budget_lines(ledger.plan, keeper=opened.budget_keeper))
    return {
        "store": opened.store_url,
        "plan": plan_digest(ledger.plan),
        "experts": f"{counts.num_experts_done} of {counts.num_experts}",
        "merge jobs": f"{counts.num_merges_done} of {counts.num_merges}",
        "committed": f"{min(commits)} to {max(commits)}" if commits else "nothing yet",
        **({"budget": budget.removeprefix("budget: ")} if budget else {}),
        **({"MLflow": f"lacks {pending}; `mergesweep track` sends them"} if pending else {}),
        "code version": f"mergesweep {code_version()}",
    }

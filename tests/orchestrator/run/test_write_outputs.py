from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from made_study import made_ledger

from orchestrator.cli.ending import print_pending
from orchestrator.plan.plan import Plan
from orchestrator.progress.plain_console import PlainConsole
from orchestrator.record.committed import Committed
from orchestrator.record.folder import EXPERTS_FILE, RESULTS_FILE
from orchestrator.record.ledger import Ledger
from orchestrator.report.figures import Figures
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import open_study
from orchestrator.run.republish import start_tracker
from orchestrator.run.write_outputs import publish_outputs, write_outputs
from orchestrator.study.schema import Study
from orchestrator.tracking.mlflow_run import MAX_ARTIFACT_BYTES, MlflowRun
from orchestrator.tracking.protocol import NOTE_TAG
from orchestrator.tracking.tracker import PublishReport
from workers.artifacts.manifests import Manifest

WHERE = "orchestrator.run.write_outputs"


@pytest.fixture
def committed(make_plan: Callable[..., Plan]) -> Committed:
    """Returns the artifacts of a finished study."""
    return made_ledger(make_plan()).committed()


def published(committed: Committed, *, page: str = "<p>") -> tuple[str, list[MlflowRun]]:
    """Returns what was left out, and the MLflow runs that were handed over."""
    runs: list[MlflowRun] = []
    results = StudyResults.of(committed)
    return publish_outputs(
        committed, results=results, make_page=lambda _: page, publish=runs.append
    ), runs


def test_whole_study_leaves_out_nothing(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said either."""
    monkeypatch.setattr(f"{WHERE}.figures", lambda _: Figures(files={}, faults={}))
    left_out, runs = published(committed)
    assert left_out == ""
    assert {run.kind for run in runs} == {"expert", "merge", "setting", "curve", "report"}


def test_report_is_drawn_when_the_other_runs_are_handed_over(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher works on them meanwhile."""
    monkeypatch.setattr(f"{WHERE}.figures", lambda _: Figures(files={}, faults={}))
    order: list[str] = []

    def draw(_: Figures | None) -> str:
        order.append("drawn")
        return "<p>"

    publish_outputs(
        committed,
        results=StudyResults.of(committed),
        make_page=draw,
        publish=lambda run: order.append(run.kind),
    )
    assert order[-2:] == ["drawn", "report"]
    assert {"expert", "merge", "setting", "curve"} == set(order[:-2])


def test_figures_that_fail_together_leave_all_other_runs(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says which error it was."""

    def fail(_: StudyResults) -> Figures:
        raise MemoryError("70000 x 400 pixels")

    monkeypatch.setattr(f"{WHERE}.figures", fail)
    left_out, runs = published(committed)
    assert left_out == (
        "MLflow lacks what cannot be made for it: the rest: MemoryError: 70000 x 400 pixels"
    )
    assert {run.kind for run in runs} == {"expert", "merge", "setting", "curve"}


def test_refused_runs_are_counted_and_the_first_is_named(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are handed over."""
    monkeypatch.setattr(f"{WHERE}.figures", lambda _: Figures(files={}, faults={}))
    monkeypatch.setattr("orchestrator.tracking.mlflow_run.MAX_METRIC_KEYS", 8)
    left_out, runs = published(committed)
    assert left_out.startswith("MLflow lacks what cannot be made for it: ")
    assert "more than 8 metric names" in left_out
    assert "more)" in left_out
    assert {"expert", "report"} <= {run.kind for run in runs}


def test_page_that_is_too_large_for_mlflow_is_named_in_the_description(
    committed: Committed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The MLflow run of the report is there with its figures."""
    drawn = Figures(files={"a.svg": b"<svg>"}, faults={})
    monkeypatch.setattr(f"{WHERE}.figures", lambda _: drawn)
    left_out, runs = published(committed, page="x" * (MAX_ARTIFACT_BYTES + 1))
    assert left_out == ""
    (report,) = (run for run in runs if run.kind == "report")
    assert set(report.artifacts) == {"figures/a.svg"}
    assert report.tags[NOTE_TAG] == "Left out: report.html: too large."


def test_tables_do_not_depend_on_views(
    make_study: Callable[..., Study],
    all_manifests: Callable[[Plan], list[Manifest]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a report whose parts all fail, the tables have the same bytes, and the page says why."""
    opened = open_study(make_study(), text="name: small\n")
    opened = replace(opened, ledger=Ledger(opened.plan, manifests=all_manifests(opened.plan)))
    results = StudyResults.of(opened.ledger.committed())
    write_outputs(opened, results=results)
    before = [opened.folder.read_bytes(name) for name in (RESULTS_FILE, EXPERTS_FILE)]

    def fail(*_: object, **__: object) -> str:
        raise ZeroDivisionError("broken")

    for part in ("summary_section", "axes_section", "experts_section", "data_section"):
        monkeypatch.setattr(f"orchestrator.report.page.{part}", fail)
    page = write_outputs(opened, results=results)
    assert [opened.folder.read_bytes(name) for name in (RESULTS_FILE, EXPERTS_FILE)] == before
    assert None not in before
    assert page.count("could not be made: ZeroDivisionError: broken") == 4
    assert "name: small" in page


def test_run_says_what_mlflow_lacks_for_good(make_study: Callable[..., Study]) -> None:
    """It is one line, without a command that would not help."""
    text = StringIO()
    report = PublishReport(
        num_published=5, num_unchanged=0, num_pending=0, error=None, left_out="MLflow lacks x: y"
    )
    opened = open_study(make_study(), text="")
    print_pending(report, opened=opened, console=PlainConsole(file=text, width=200))
    assert text.getvalue() == "MLflow lacks x: y\n"


@pytest.mark.slow
def test_damaged_database_is_named_with_its_remedy(
    make_study: Callable[..., Study], committed: Committed, tmp_path: Path
) -> None:
    """Sending the MLflow runs again would not help before the file is moved away."""
    database, text = tmp_path / "mlflow.db", StringIO()
    database.write_text("no database, but longer than the sixteen bytes of SQLite's heading")
    study = make_study(tracking=f"sqlite:///{database}")
    opened = open_study(study, text="")
    tracker = start_tracker(opened)
    for run in published(committed)[1][:1]:
        tracker.publish(run)
    report = tracker.close(60)
    print_pending(report, opened=opened, console=PlainConsole(file=text, width=10_000))
    printed = text.getvalue()
    assert "lacks 1 run (unreachable: DatabaseError: file is not a database; log: " in printed
    assert f"Move the damaged file {database} away; then this command sends them: " in printed

"""Asks for the theory of a study that an earlier release finished."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result

from orchestrator.record.folder import StudyFolder
from orchestrator.report.theory.chapter import CHAPTER_START
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import open_by_name
from orchestrator.theory.answers import compute_answers
from orchestrator.theory.findings import DIFFERENCES, MISSING, RANKS, SKILL
from orchestrator.theory.schema import SCHEMAS
from orchestrator.theory.stored import store_answers, table_file
from orchestrator.tracking.tracker import PublishReport
from workers.store.opening import open_store

ARCHIVE = Path(__file__).parents[3] / "golden" / "finished_store.tar.xz"
NAME = "before"
PUBLISH = "orchestrator.cli.verbs.theory.publish_theory"  # tests/orchestrator/run has the real one
PUBLISHED = PublishReport(num_published=3, num_unchanged=0, num_pending=0, error=None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacks the archive and returns the folder of the store."""
    folder = tmp_path_factory.mktemp("old") / "store"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_old_study_gets_answers_tables_and_a_chapter(
    call: Callable[..., Result], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints answers, writes tables and a chapter with figures; asked again, it writes nothing.

    One study for all of it, and no figures of its axes, as drawing takes seconds.
    """
    monkeypatch.setattr("orchestrator.report.page.axes_section", lambda _: "")
    monkeypatch.setattr(PUBLISH, lambda *_, **__: PUBLISHED)
    folder = store / "studies" / NAME
    results = (folder / "results.parquet").read_bytes()
    first = call("theory", NAME, "--store", str(store))
    assert first.exit_code == 0, first.output
    for question in (DIFFERENCES, RANKS, SKILL, MISSING):
        assert question in first.stdout
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(folder / table_file(name)) == schema
    page = (folder / "report.html").read_text()
    assert CHAPTER_START in page
    assert page.count("<figcaption>") > 2
    assert (folder / "results.parquet").read_bytes() == results

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("orchestrator.cli.verbs.theory.compute_answers", None)
    second = call("theory", NAME, "--store", str(store))
    assert second.exit_code == 0, second.output
    assert first.stdout.endswith(second.stdout)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    listed = call("gc", "--store", str(store), "--min-age", "0")
    assert listed.exit_code == 0, listed.output
    assert "theory" not in listed.stdout


def test_a_report_that_lost_its_chapter_gets_it_again(
    call: Callable[..., Result], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that was killed after the tables and before the report is made up for."""
    folder = StudyFolder(open_store(str(store)), NAME)
    opened = open_by_name(NAME, store_url=str(store))
    results = StudyResults.of(opened.ledger.committed())
    answers = compute_answers(results.merges, trainings="left out here")
    store_answers(folder, answers, results=results.merges)
    folder.write_bytes("report.html", b"<html></html>")
    written: list[StudyResults] = []
    monkeypatch.setattr(PUBLISH, lambda *_, **__: PUBLISHED)
    monkeypatch.setattr(
        "orchestrator.cli.verbs.theory.write_outputs",
        lambda _, *, results: written.append(results),
    )
    ended = call("theory", NAME, "--store", str(store))
    assert ended.exit_code == 0, ended.output
    assert "left out here" in ended.stdout
    assert len(written) == 1

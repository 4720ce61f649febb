from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import make_url

from orchestrator.plan.plan import Plan
from orchestrator.record.folder import (
    REPORT_FILE,
    RESULTS_FILE,
    TRACKING_FILE,
    StudyDamagedError,
    StudyFolder,
)
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy, open_by_name, open_study, tracking_uri
from orchestrator.run.write_outputs import report_page, write_outputs
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study
from orchestrator.study.schema import Study
from orchestrator.tracking.database import database_path
from orchestrator.tracking.tracker import PublishReport
from workers.artifacts.checksummed_json import dump_checksummed
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.specs.plan_file import PLAN_FILE
from workers.store.opening import open_store

Fields = Callable[..., dict[str, Any]]


@pytest.fixture
def open_text(study_fields: Fields) -> Callable[..., OpenedStudy]:
    """Opens a study as the command line does."""

    def run(**changes: object) -> OpenedStudy:
        text = yaml.safe_dump(study_fields(**changes))
        return open_study(parse_study(text, source="study.yaml"), text=text)

    return run


def write(opened: OpenedStudy) -> None:
    write_outputs(opened, results=StudyResults.of(opened.ledger.committed()))


def put(manifests: list[Manifest], *, url: str) -> None:
    store = open_store(url)
    for manifest in manifests:
        store.put(Layout.manifest(manifest.kind, manifest.id), manifest.to_json())


def note_published(opened: OpenedStudy) -> None:
    """Leaves what a run leaves whose MLflow runs were all sent."""
    database = database_path(opened.tracking_uri)
    assert database is not None
    database.touch()
    (database.parent / "mlflow-artifacts" / opened.folder.name).mkdir(parents=True, exist_ok=True)
    opened.note_published(report(num_pending=0))


def report(num_pending: int) -> PublishReport:
    return PublishReport(num_published=3, num_unchanged=0, num_pending=num_pending, error=None)


def test_empty_store_opens_with_everything_to_do(open_text: Callable[..., OpenedStudy]) -> None:
    """Nothing is committed, nothing is prepared, and the study is not written yet."""
    opened = open_text()
    assert opened.ledger.state().counts().num_experts_done == 0
    assert (opened.ledger.committed().bases, opened.prepared) == ({}, frozenset())
    assert opened.folder.read_bytes(PLAN_FILE) is None
    assert not opened.is_published()


def test_committed_artifacts_of_the_plan_are_counted(
    open_text: Callable[..., OpenedStudy],
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
) -> None:
    """Artifacts of the plan count, whichever study made them; those of another seed do not."""
    *manifests, _ = all_manifests(make_plan(name="earlier"))
    url = open_text().store_url
    put([*manifests, *all_manifests(make_plan(seed=7))], url=url)
    counts = open_text().ledger.state().counts()
    assert (counts.num_experts_done, counts.num_merges_done) == (3, 2)


def test_base_and_images_that_are_there_need_no_preparation(
    open_text: Callable[..., OpenedStudy], expert_manifest: Callable[..., Manifest]
) -> None:
    """The base's manifest is read, and the ids of both are known."""
    opened = open_text()
    template = expert_manifest(next(iter(opened.plan.experts.values())))
    base_id, data_id = opened.plan.bases.jobs[0].spec.id, opened.plan.datasets[0].id
    made = [
        Manifest(**{**vars(template), "kind": kind, "id": id_})
        for kind, id_ in (("base", base_id), ("data", data_id))
    ]
    put(made, url=opened.store_url)
    again = open_text()
    assert again.prepared == {base_id, data_id}
    assert again.ledger.committed().bases == {base_id: made[0]}
    assert again.ledger.committed().prepared[base_id] == made[0]


def test_groups_of_an_earlier_run_are_kept(open_text: Callable[..., OpenedStudy]) -> None:
    """The stored plan's groups are used, whatever sampling gives today."""
    opened = open_text(groups={"count": 2, "size": 2})
    opened.folder.write_plan(opened.plan, study_text=opened.text)
    written = opened.folder.read_plan()
    assert written is not None
    first, second = opened.plan.groups
    swapped = {first.name: second.tasks, second.name: first.tasks}
    opened.folder.write_bytes(
        PLAN_FILE, dump_checksummed(replace(written, groups=swapped).to_json())
    )
    again = open_text(groups={"count": 2, "size": 2})
    assert [group.tasks for group in again.plan.groups] == [second.tasks, first.tasks]
    assert [cell.group.tasks for cell in again.plan.cells] == [second.tasks, first.tasks]


def test_study_opens_by_name_from_its_store_alone(
    open_text: Callable[..., OpenedStudy], tmp_path: Path
) -> None:
    """After the store was moved, the given location counts and not the written one."""
    opened = open_text()
    opened.folder.write_plan(opened.plan, study_text=opened.text)
    moved = (tmp_path / "store").rename(tmp_path / "moved")
    again = open_by_name("small", store_url=str(moved))
    assert again.store_url == str(moved)
    assert again.plan.cells == opened.plan.cells
    assert again.text == opened.text
    assert not (tmp_path / "store").exists()


def test_study_that_this_release_cannot_read_is_named(
    open_text: Callable[..., OpenedStudy],
) -> None:
    """A stored study text is checked like a file."""
    opened = open_text()
    opened.folder.write_bytes("study.yaml", b"name: small\nflavour: 1\n")
    with pytest.raises(StudyError, match="flavour") as caught:
        open_by_name("small", store_url=opened.store_url)
    assert str(caught.value).startswith("small in ")


def test_published_is_remembered_until_something_is_added(
    open_text: Callable[..., OpenedStudy],
    expert_manifest: Callable[..., Manifest],
) -> None:
    """The next run does not ask MLflow, unless there is a new expert, method or server."""
    opened = open_text()
    note_published(opened)
    assert not open_text().is_published()  # nothing was written for anyone to read
    write(opened)
    assert open_text().is_published()
    assert not open_text(tracking="http://elsewhere:5000").is_published()
    assert not open_text(merge=[{"method": "ties"}]).is_published()
    expert = next(iter(opened.plan.experts.values()))
    put([expert_manifest(expert)], url=opened.store_url)
    assert not open_text().is_published()


@pytest.mark.parametrize("name", ["results.parquet", "report.html", "outputs.json"])
@pytest.mark.parametrize("content", [None, b"", b"x" * 5000])
def test_outputs_that_are_gone_or_damaged_are_written_again(
    open_text: Callable[..., OpenedStudy], name: str, content: bytes | None
) -> None:
    """A finished study with a broken table, report or list of digests is not published."""
    opened = open_text()
    write(opened)
    note_published(opened)
    assert open_text().is_published()
    if content is None:
        open_store(opened.store_url).delete([Layout.study("small", name)])
    else:
        opened.folder.write_bytes(name, content)
    assert not open_text().is_published()
    write(open_text())
    assert open_text().is_published()


@pytest.mark.parametrize("name", ["mlflow.db", "mlflow-artifacts"])
def test_deleted_database_or_figures_are_sent_again(
    open_text: Callable[..., OpenedStudy], name: str
) -> None:
    """A user who deletes a view to start over gets it with the next run."""
    opened = open_text()
    write(opened)
    note_published(opened)
    assert open_text().is_published()
    path = Path(opened.store_url) / name
    path.rename(path.with_name("elsewhere"))
    assert not open_text().is_published()


@pytest.mark.parametrize("content", [b"", b'{"uri": ', b"[1]", b"\xff"])
def test_damaged_note_on_tracking_counts_as_missing(
    open_text: Callable[..., OpenedStudy], content: bytes
) -> None:
    """The run asks MLflow again instead of ending in a traceback."""
    opened = open_text()
    write(opened)
    opened.folder.write_bytes(TRACKING_FILE, content)
    assert not open_text().is_published()


def test_finished_study_without_its_base_has_something_to_run(
    open_text: Callable[..., OpenedStudy],
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
) -> None:
    """The missing base and images are made although all experts and merges exist."""
    manifests = all_manifests(make_plan())
    opened = open_text()
    prepared = [
        Manifest(**{**vars(manifests[0]), "kind": kind, "id": id_})
        for kind, id_ in (
            ("base", opened.plan.bases.jobs[0].spec.id),
            *(("data", each.id) for each in opened.plan.datasets),
        )
    ]
    put([*manifests, *prepared[1:]], url=opened.store_url)
    assert open_text().ledger.state().is_finished
    assert not open_text().is_finished()
    put(prepared[:1], url=opened.store_url)
    assert open_text().is_finished()


def test_broken_manifests_are_named_in_one_error(
    open_text: Callable[..., OpenedStudy],
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
) -> None:
    """The error names five ids, the number of the others, and the command that mends them."""
    manifests = all_manifests(make_plan())
    opened = open_text()
    put(manifests, url=opened.store_url)
    keys = [Layout.manifest(each.kind, each.id) for each in manifests]
    keys.append(Layout.manifest("data", opened.plan.datasets[0].id))
    for key in keys:
        open_store(opened.store_url).put(key, b"{}")
    with pytest.raises(StudyDamagedError) as caught:
        open_text()
    message = str(caught.value)
    assert sum(each.id in message for each in manifests) == 4
    assert opened.plan.datasets[0].id in message
    assert "and 2 more differ from their digests" in message
    assert f"mergesweep verify small --store {opened.store_url}" in message


@pytest.mark.parametrize("name", ["study.yaml", "plan.json"])
@pytest.mark.parametrize("change", [b"#", b"\xff", None])
def test_damaged_study_does_not_open_by_name(
    open_text: Callable[..., OpenedStudy], name: str, change: bytes | None
) -> None:
    """Nobody continues another study than the one that was run."""
    opened = open_text()
    opened.folder.write_plan(opened.plan, study_text=opened.text)
    content = opened.folder.read_bytes(name) or b""
    opened.folder.write_bytes(
        name, content[: len(content) // 2] if change is None else content + change
    )
    with pytest.raises(StudyDamagedError, match=f"is damaged: {name} ") as caught:
        open_by_name("small", store_url=opened.store_url)
    assert f"mergesweep verify small --store {opened.store_url}" in str(caught.value)


def test_study_is_mended_by_running_the_file_again(open_text: Callable[..., OpenedStudy]) -> None:
    """A user with the file is not stopped by a damaged text in the store."""
    opened = open_text()
    opened.folder.write_plan(opened.plan, study_text=opened.text)
    opened.folder.write_bytes("study.yaml", b"name: sm")
    again = open_text()
    again.folder.write_plan(again.plan, study_text=again.text)
    assert open_by_name("small", store_url=opened.store_url).text == opened.text


def test_unsent_runs_are_not_remembered_as_published(
    open_text: Callable[..., OpenedStudy],
) -> None:
    """A server that was away gets them next time, and the report says so."""
    opened = open_text()
    assert opened.missing_in_mlflow() is None
    opened.note_published(report(num_pending=1))
    again = open_text()
    assert not again.is_published()
    assert str(again.missing_in_mlflow()).startswith("1 runs (")
    assert "MLflow" in report_page(again, results=StudyResults.of(again.ledger.committed()))
    again.note_published(report(num_pending=0))
    assert again.missing_in_mlflow() is None


def test_tracking_is_what_the_study_says_or_beside_the_store(
    make_study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an address it is SQLite in the store's directory, or here for S3."""
    monkeypatch.chdir(tmp_path)
    study = make_study()
    said = make_study(tracking="http://mlflow:5000")
    assert tracking_uri(said, store_url="/x") == "http://mlflow:5000"
    assert tracking_uri(study, store_url="/x/store") == "sqlite:////x/store/mlflow.db"
    assert tracking_uri(study, store_url="file:///x/store") == "sqlite:////x/store/mlflow.db"
    assert tracking_uri(study, store_url="s3://b/p") == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(study, store_url="file:///a%20b") == "sqlite:////a b/mlflow.db"


def test_tracking_in_a_file_is_found_from_any_folder(
    make_study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is relative to the current folder, and `~` is the home, as for stores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for written, meant in {
        "sqlite:///x.db": f"sqlite:///{tmp_path}/x.db",
        "sqlite:///~/x.db?timeout=5": "sqlite:////home/me/x.db?timeout=5",
        "sqlite:////x.db": "sqlite:////x.db",
    }.items():
        assert tracking_uri(make_study(tracking=written), store_url="/x") == meant


@pytest.mark.parametrize("name", ["run #1", "why?", "100%25"])
def test_database_is_in_the_store_whatever_the_store_is_called(
    make_study: Callable[..., Study], tmp_path: Path, name: str
) -> None:
    """SQLAlchemy, which MLflow opens databases with, would read parts of these names otherwise."""
    uri = tracking_uri(make_study(), store_url=str(tmp_path / name))
    assert database_path(uri) == tmp_path / name / "mlflow.db"
    assert make_url(uri).database == str(tmp_path / name / "mlflow.db")


def test_folder_is_that_of_the_study(open_text: Callable[..., OpenedStudy]) -> None:
    """Two studies of one store have separate folders."""
    assert open_text(name="other").folder.name == "other"
    assert isinstance(open_text().folder, StudyFolder)


def test_report_that_cannot_be_drawn_fails_nothing(
    open_text: Callable[..., OpenedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are written, and a page says why there is no report."""

    def fail(*_: object, **__: object) -> str:
        raise ValueError("<no font>")

    monkeypatch.setattr("orchestrator.run.write_outputs.report_page", fail)
    opened = open_text()
    write(opened)
    assert opened.folder.read_bytes(RESULTS_FILE) is not None
    page = opened.folder.read_bytes(REPORT_FILE)
    assert page is not None
    assert b"could not be drawn: ValueError: &lt;no font&gt;" in page

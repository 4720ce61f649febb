import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Plan
from orchestrator.record.folder import (
    STUDY_FILE,
    StudyDamagedError,
    StudyFolder,
    StudyNotFoundError,
    study_names,
)
from workers.artifacts.checksummed_json import dump_checksummed, parse_checksummed
from workers.artifacts.layout import Layout
from workers.specs.plan_file import PLAN_FILE
from workers.store.opening import open_store
from workers.store.protocol import Store


@pytest.fixture
def directory(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def folder(directory: Store) -> StudyFolder:
    return StudyFolder(directory, "small")


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.list("studies/")]


def test_study_file_is_read_back_as_written(
    folder: StudyFolder, make_plan: Callable[..., Plan]
) -> None:
    """The bytes are equal, comments and non-ASCII letters included."""
    text = "name: small  # größer wäre besser\n"
    folder.write_plan(make_plan(), study_text=text)
    assert folder.read_study_and_plan()[0] == text


def test_unknown_study_is_reported_with_the_names_of_the_store(
    directory: Store, make_plan: Callable[..., Plan]
) -> None:
    """A user who mistyped a name sees the right one. A folder without a study file is no study."""
    for name in ("b-study", "a-study"):
        StudyFolder(directory, name).write_plan(make_plan(name=name), study_text="x")
    directory.put("studies/half/plan.json", b"{}")
    assert study_names(directory) == ["a-study", "b-study"]
    with pytest.raises(StudyNotFoundError, match=r"no study 'c'; studies there: a-study, b-study"):
        StudyFolder(directory, "c").read_study_and_plan()


@pytest.mark.parametrize("inside", ["studies", "studies/small"])
def test_folder_inside_a_store_is_told_from_the_store(
    directory: Store, make_plan: Callable[..., Plan], inside: str
) -> None:
    """A user who gives a study's folder as the store learns which folder is the store."""
    StudyFolder(directory, "small").write_plan(make_plan(name="small"), study_text="x")
    store = open_store(f"{directory.url}/{inside}")
    with pytest.raises(StudyNotFoundError, match=f"above studies, {directory.url}$"):
        StudyFolder(store, "small").read_study_and_plan()


def test_empty_store_has_no_studies(folder: StudyFolder) -> None:
    """The message says `none`."""
    with pytest.raises(StudyNotFoundError, match="studies there: none"):
        folder.read_study_and_plan()


def test_replaced_study_files_and_plans_are_kept(
    folder: StudyFolder, directory: Store, make_plan: Callable[..., Plan]
) -> None:
    """Three versions leave two numbered ones, in order; the last has the plain name."""
    plan = make_plan()
    for text in ("first", "second", "third"):
        folder.write_plan(plan, study_text=text)
    assert folder.read_study_and_plan()[0] == "third"
    assert folder.read_bytes(f"{STUDY_FILE}.0001") == b"first"
    assert folder.read_bytes(f"{STUDY_FILE}.0002") == b"second"
    assert folder.read_bytes(f"{STUDY_FILE}.0003") is None
    replaced = parse_checksummed(folder.read_bytes(f"{PLAN_FILE}.0002") or b"")
    assert replaced["study_sha256"] == hashlib.sha256(b"second").hexdigest()
    assert study_names(directory) == ["small"]


def test_unchanged_study_leaves_no_revision(
    folder: StudyFolder, directory: Store, make_plan: Callable[..., Plan]
) -> None:
    """Resuming a study writes no further files."""
    folder.write_plan(make_plan(), study_text="x")
    before = keys(directory)
    folder.write_plan(make_plan(), study_text="x")
    assert keys(directory) == before == ["studies/small/plan.json", "studies/small/study.yaml"]


def test_plan_is_read_back_with_the_digest_of_the_study_file(
    folder: StudyFolder, make_plan: Callable[..., Plan]
) -> None:
    """The stored plan is complete and names the study file that it was made from."""
    plan = make_plan()
    folder.write_plan(plan, study_text="x")
    digest = hashlib.sha256(b"x").hexdigest()
    written = folder.read_plan()
    assert written == replace(plan_file(plan), study_sha256=digest)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content[: len(content) // 2], "is not JSON"),
        (lambda content: content.replace(b"mnist_5k", b"mnist_4k"), "does not match its checksum"),
        (lambda content: content.replace(b"0.01", b"1E-2"), "does not match its checksum"),
        (lambda _: b"[]", "does not match its checksum"),
        (lambda _: dump_checksummed({"study": "other"}), "belongs to study 'other'"),
        (lambda _: dump_checksummed({"study": "small"}), "has no field 'groups_drawn_from'"),
    ],
)
def test_damaged_plan_is_refused(
    folder: StudyFolder,
    make_plan: Callable[..., Plan],
    change: Callable[[bytes], bytes],
    problem: str,
) -> None:
    """A run with the wrong groups would be worse than no run. The message says what helps."""
    folder.write_plan(make_plan(), study_text="x")
    folder.write_bytes(PLAN_FILE, change(folder.read_bytes(PLAN_FILE) or b""))
    with pytest.raises(StudyDamagedError, match=rf"plan\.json {problem}") as caught:
        folder.read_plan()
    assert f"mergesweep verify small --store {folder.store_url}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"y", "does not match its digest"), (b"", "does not match"), (None, "is missing")],
)
def test_study_file_that_differs_from_the_planned_one_is_refused(
    folder: StudyFolder,
    directory: Store,
    make_plan: Callable[..., Plan],
    content: bytes | None,
    problem: str,
) -> None:
    """The plan has the digest. A missing study file is a damage, not an unknown name."""
    folder.write_plan(make_plan(), study_text="x")
    if content is None:
        directory.delete([Layout.study("small", STUDY_FILE)])
    else:
        folder.write_bytes(STUDY_FILE, content)
    with pytest.raises(StudyDamagedError, match=rf"study\.yaml {problem}"):
        folder.read_study_and_plan()


def test_study_file_without_a_plan_is_read(folder: StudyFolder) -> None:
    """A run that was stopped between the two writes can be resumed."""
    folder.write_bytes(STUDY_FILE, b"x")
    assert folder.read_study_and_plan()[0] == "x"
    folder.write_bytes(STUDY_FILE, b"\xff")
    with pytest.raises(StudyDamagedError, match="is not text"):
        folder.read_study_and_plan()


def test_withdrawn_file_is_kept_under_another_name(folder: StudyFolder, directory: Store) -> None:
    """A second withdrawal does not overwrite the first; a missing file is ignored."""
    for content in (b"first", b"second"):
        folder.write_bytes(PLAN_FILE, content)
        folder.withdraw(PLAN_FILE)
    folder.withdraw(PLAN_FILE)
    assert folder.read_plan() is None
    assert keys(directory) == [
        f"studies/small/withdrawn-{number:04d}-plan.json" for number in (1, 2)
    ]
    assert folder.read_bytes("withdrawn-0002-plan.json") == b"second"


def test_location_of_a_local_file_is_its_path(folder: StudyFolder, tmp_path: Path) -> None:
    """A user can open the printed path."""
    folder.write_bytes("report.html", b"<html>")
    assert Path(folder.location("report.html")).read_bytes() == b"<html>"
    assert folder.location("report.html").startswith(str(tmp_path))


def test_location_on_an_s3_server_ends_with_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The query with the server follows the whole key."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = open_store("s3://bucket/prefix?endpoint_url=http://127.0.0.1:9")
    assert StudyFolder(store, "small").location("report.html") == (
        "s3://bucket/prefix/studies/small/report.html?endpoint_url=http://127.0.0.1:9"
    )

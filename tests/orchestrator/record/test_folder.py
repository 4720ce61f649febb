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


def test_study_is_read_back_as_written(folder: StudyFolder, make_plan: Callable[..., Plan]) -> None:
    """Byte for byte, comments and all."""
    text = "name: small  # größer wäre besser\n"
    folder.write_plan(make_plan(), study_text=text)
    assert folder.read_study() == text


def test_study_that_is_not_there_is_named_beside_those_that_are(
    directory: Store, make_plan: Callable[..., Plan]
) -> None:
    """A slip in the name shows the right one."""
    for name in ("b-study", "a-study"):
        StudyFolder(directory, name).write_plan(make_plan(name=name), study_text="x")
    directory.put("studies/half/plan.json", b"{}")
    assert study_names(directory) == ["a-study", "b-study"]
    with pytest.raises(StudyNotFoundError, match=r"no study 'c'; studies there: a-study, b-study"):
        StudyFolder(directory, "c").read_study()


def test_empty_store_has_no_studies(folder: StudyFolder) -> None:
    """The message says so instead of ending in nothing."""
    with pytest.raises(StudyNotFoundError, match="studies there: none"):
        folder.read_study()


def test_edited_study_keeps_what_it_replaces(
    folder: StudyFolder, directory: Store, make_plan: Callable[..., Plan]
) -> None:
    """Three texts leave two revisions, in order; the current one has the plain name."""
    plan = make_plan()
    for text in ("first", "second", "third"):
        folder.write_plan(plan, study_text=text)
    assert folder.read_study() == "third"
    assert folder.read_bytes(f"{STUDY_FILE}.0001") == b"first"
    assert folder.read_bytes(f"{STUDY_FILE}.0002") == b"second"
    assert folder.read_bytes(f"{STUDY_FILE}.0003") is None
    replaced = parse_checksummed(folder.read_bytes(f"{PLAN_FILE}.0002") or b"")
    assert replaced["study_sha256"] == hashlib.sha256(b"second").hexdigest()
    assert study_names(directory) == ["small"]


def test_same_study_again_writes_nothing_new(
    folder: StudyFolder, directory: Store, make_plan: Callable[..., Plan]
) -> None:
    """A resumed study leaves no revisions behind."""
    folder.write_plan(make_plan(), study_text="x")
    before = keys(directory)
    folder.write_plan(make_plan(), study_text="x")
    assert keys(directory) == before == ["studies/small/plan.json", "studies/small/study.yaml"]


def test_plan_is_read_back_with_the_digest_of_the_text(
    folder: StudyFolder, make_plan: Callable[..., Plan]
) -> None:
    """What ran is written down whole, and which text it came from."""
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
        (lambda _: dump_checksummed({"study": "other"}), "is that of study 'other'"),
        (lambda _: dump_checksummed({"study": "small"}), "has no field 'groups_drawn_from'"),
    ],
)
def test_damaged_plan_is_refused(
    folder: StudyFolder,
    make_plan: Callable[..., Plan],
    change: Callable[[bytes], bytes],
    problem: str,
) -> None:
    """Wrong groups are worse than none: the message has what is wrong and the command."""
    folder.write_plan(make_plan(), study_text="x")
    folder.write_bytes(PLAN_FILE, change(folder.read_bytes(PLAN_FILE) or b""))
    with pytest.raises(StudyDamagedError, match=rf"plan\.json {problem}") as caught:
        folder.read_plan()
    assert f"mergesweep verify small --store {folder.store_url}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"y", "does not match its digest"), (b"", "does not match"), (None, "is missing")],
)
def test_study_that_is_not_the_planned_one_is_refused(
    folder: StudyFolder,
    directory: Store,
    make_plan: Callable[..., Plan],
    content: bytes | None,
    problem: str,
) -> None:
    """The plan knows the text's digest; a lost text is damage, not an unknown name."""
    folder.write_plan(make_plan(), study_text="x")
    if content is None:
        directory.delete([Layout.study("small", STUDY_FILE)])
    else:
        folder.write_bytes(STUDY_FILE, content)
    with pytest.raises(StudyDamagedError, match=rf"study\.yaml {problem}"):
        folder.read_study()


def test_study_without_a_plan_is_believed(folder: StudyFolder) -> None:
    """A run that was stopped between the two leaves a text that can go on."""
    folder.write_bytes(STUDY_FILE, b"x")
    assert folder.read_study() == "x"
    folder.write_bytes(STUDY_FILE, b"\xff")
    with pytest.raises(StudyDamagedError, match="is not text"):
        folder.read_study()


def test_withdrawn_file_is_kept_under_another_name(folder: StudyFolder, directory: Store) -> None:
    """It is missing afterwards; the second one does not overwrite the first."""
    for content in (b"first", b"second"):
        folder.write_bytes(PLAN_FILE, content)
        folder.withdraw(PLAN_FILE)
    folder.withdraw(PLAN_FILE)
    assert folder.read_plan() is None
    assert keys(directory) == [
        f"studies/small/withdrawn-{number:04d}-plan.json" for number in (1, 2)
    ]
    assert folder.read_bytes("withdrawn-0002-plan.json") == b"second"


def test_location_is_a_path_that_exists(folder: StudyFolder, tmp_path: Path) -> None:
    """What is printed can be opened."""
    folder.write_bytes("report.html", b"<html>")
    assert Path(folder.location("report.html")).read_bytes() == b"<html>"
    assert folder.location("report.html").startswith(str(tmp_path))


def test_location_on_a_server_of_ones_own_names_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stands behind the whole key, not in the middle of it."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = open_store("s3://bucket/prefix?endpoint_url=http://127.0.0.1:9")
    assert StudyFolder(store, "small").location("report.html") == (
        "s3://bucket/prefix/studies/small/report.html?endpoint_url=http://127.0.0.1:9"
    )

"""Tests of the index of a study: with it and without it, a study opens the same."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import wait_until

from orchestrator.plan.plan import Plan
from orchestrator.record.folder import StudyDamagedError
from orchestrator.run import indexing as indexing_module
from orchestrator.run import stored_manifests as stored_module
from orchestrator.run.indexing import indexing, write_index
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from orchestrator.upkeep.gc import collect
from orchestrator.upkeep.verify import verify
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.store.opening import open_store
from workers.store.protocol import Store, StoreFullError

Open = Callable[[Store], OpenedStudy]


@pytest.fixture(autouse=True)
def _index_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives studies of five artifacts an index."""
    monkeypatch.setattr(stored_module, "MIN_INDEXED", 3)
    monkeypatch.setattr(indexing_module, "MIN_INDEXED", 3)


@pytest.fixture
def open_in(study_fields: Callable[..., dict[str, Any]]) -> Open:
    """Opens the small study in a store."""

    def run(store: Store) -> OpenedStudy:
        text = yaml.safe_dump(study_fields(store=store.url))
        return open_study(parse_study(text, source="study.yaml"), text=text)

    return run


@pytest.fixture
def filled(
    store: Store,
    make_plan: Callable[..., Plan],
    all_manifests: Callable[[Plan], list[Manifest]],
) -> Store:
    """Returns a store with all experts and merges of the small study."""
    put(store, all_manifests(make_plan()))
    return store


def put(store: Store, manifests: list[Manifest]) -> None:
    for each in manifests:
        store.put(Layout.manifest(each.kind, each.id), each.to_json())


def content(opened: OpenedStudy) -> list[tuple[str, Manifest]]:
    committed = opened.ledger.committed()
    return [*committed.experts.items(), *committed.merges.items(), *committed.prepared.items()]


def parts(store: Store) -> list[str]:
    return [entry.key for entry in store.list(Layout.index("small"))]


def num_manifest_reads(opened: OpenedStudy, monkeypatch: pytest.MonkeyPatch, again: Open) -> int:
    """Opens the study again and counts the manifests that are read one by one."""
    store = opened.artifacts.store
    keys = keys_read(store, monkeypatch, lambda: again(store))
    return sum(Layout.parse_manifest_key(key) is not None for key in keys)


def keys_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]
) -> list[str]:
    """Returns the keys of the objects that an action reads."""
    keys: list[str] = []
    store_class = type(store)
    get = store_class.get

    def counted(self: Store, key: str) -> bytes:
        keys.append(key)
        return get(self, key)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(store_class, "get", counted)
        action()
    return keys


def test_study_that_is_opened_again_reads_what_changed(
    filled: Store,
    open_in: Open,
    expert_manifest: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the lease, a run looks again: at the listing, and at manifests that changed since."""
    opened = open_in(filled)
    first, second, _ = opened.plan.experts.values()
    put(filled, [expert_manifest(first, seconds=77.0)])
    opened.artifacts.withdraw("expert", second.id)
    again: list[OpenedStudy] = []
    keys = keys_read(filled, monkeypatch, lambda: again.append(opened.reopened()))
    assert [key for key in keys if "/artifacts/" in f"/{key}"] == [
        Layout.manifest("expert", first.id)
    ]
    experts = again[0].ledger.committed().experts
    assert experts[first.id].seconds == {"trial": 77.0}
    assert second.id not in experts
    assert content(again[0]) == content(open_in(filled))


def test_study_opens_the_same_with_and_without_an_index(
    filled: Store, open_in: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same manifests in the same order; with the index, none is read by itself."""
    without = open_in(filled)
    assert num_manifest_reads(without, monkeypatch, open_in) == len(content(without)) == 6
    write_index(without)
    assert len(parts(filled)) == 1
    indexed = open_in(filled)
    assert content(indexed) == content(without)
    assert num_manifest_reads(indexed, monkeypatch, open_in) == 0


def test_only_manifests_that_changed_are_read(
    filled: Store,
    open_in: Open,
    expert_manifest: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One was made again, one was withdrawn: one request, and the store's answer counts."""
    opened = open_in(filled)
    write_index(opened)
    first, *_ = opened.plan.experts.values()
    gone, *_ = opened.plan.merges
    put(filled, [expert_manifest(first, seconds=77.0)])
    opened.artifacts.withdraw("merge", gone)
    again = open_in(filled)
    assert again.ledger.committed().experts[first.id].seconds == {"trial": 77.0}
    assert gone not in again.ledger.committed().merges
    assert len(content(again)) == 5
    assert num_manifest_reads(again, monkeypatch, open_in) == 1


def test_damaged_manifest_is_an_error_although_the_index_has_a_copy(
    filled: Store, open_in: Open
) -> None:
    """The index hides no damage from runs, nor from `verify`, which withdraws the manifest."""
    opened = open_in(filled)
    opened.folder.write_plan(opened.plan, study_text=opened.text)
    write_index(opened)
    broken = next(iter(opened.plan.merges))
    filled.put(Layout.manifest("merge", broken), b"{}")
    with pytest.raises(StudyDamagedError, match=broken):
        open_in(filled)
    faults = verify(filled, "small", withdraw=True).faults
    assert broken in [fault.id for fault in faults]
    assert broken not in open_in(filled).ledger.committed().merges


def test_gc_keeps_the_index(filled: Store, open_in: Open) -> None:
    """The index belongs to the study's folder."""
    opened = open_in(filled)
    opened.folder.write_plan(opened.plan, study_text=opened.text)
    write_index(opened)
    collected = collect(filled, min_age_s=0, now_s=4e9, dry_run=False)
    assert [entry.key for entry in collected.entries if "index" in entry.key] == []
    assert len(parts(filled)) == 1
    assert len(content(open_in(filled))) == 6


def test_copied_store_reads_its_manifests_itself(
    filled: Store, open_in: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of a directory, files have other inodes; on S3 the same content has the same ETag.

    The study opens the same in both.
    """
    opened = open_in(filled)
    write_index(opened)
    if filled.url.startswith("s3://"):
        url = filled.url.replace("/store", "/copy")
        for entry in filled.list(""):
            open_store(url).put(entry.key, filled.get(entry.key))
    else:
        url = str(tmp_path / "copy")
        shutil.copytree(filled.url, url)
    copy = open_in(open_store(url))
    assert content(copy) == content(opened)
    expected = 0 if url.startswith("s3://") else 6
    assert num_manifest_reads(copy, monkeypatch, open_in) == expected


def test_few_artifacts_have_no_index(
    filled: Store, open_in: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small study's store stays as it was: no further object, and no listing of the index."""
    monkeypatch.setattr(stored_module, "MIN_INDEXED", 7)
    monkeypatch.setattr(indexing_module, "MIN_INDEXED", 7)
    opened = open_in(filled)
    write_index(opened)
    assert parts(filled) == []
    assert len(content(opened)) == 6


def test_index_is_written_while_and_after_a_run(filled: Store, open_in: Open) -> None:
    """At intervals if there are enough new manifests, and in any case at the end."""
    opened = open_in(filled)
    with indexing(opened, every_s=0.01):
        wait_until(lambda: bool(parts(filled)))
    filled.delete(parts(filled))
    again = open_in(filled)
    with indexing(again, every_s=1000):
        assert parts(filled) == []
    assert len(parts(filled)) == 1


def test_store_that_refuses_the_index_fails_nothing(
    filled: Store, open_in: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full store ends no run because of the index."""
    opened = open_in(filled)

    def refuse(key: str, content: bytes) -> None:
        raise StoreFullError(f"{key}: {len(content)}")

    with monkeypatch.context() as patched:
        patched.setattr(opened.artifacts.store, "put", refuse)
        write_index(opened)
    assert parts(filled) == []
    write_index(opened)
    assert len(parts(filled)) == 1

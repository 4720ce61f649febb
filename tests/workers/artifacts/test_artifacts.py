import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from workers.artifacts.artifacts import (
    Artifacts,
    BrokenManifestsError,
    CheckResult,
    CorruptArtifactError,
)
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest, ManifestError
from workers.artifacts.node_cache import NodeCache
from workers.artifacts.provenance import Provenance
from workers.store.opening import open_store
from workers.store.protocol import Store, StoreUnavailableError

ID = "0123456789abcdef"
OTHER_ID = "fedcba9876543210"

# Commits like a worker, and is killed before it writes the manifest.
KILLED_WORKER = """
import os, signal, sys
from pathlib import Path
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.provenance import Provenance
from workers.store.opening import open_store

store = open_store(sys.argv[1])
store.put_if_absent = lambda key, content: os.kill(os.getpid(), signal.SIGKILL)
Artifacts(store).commit(
    Provenance(kind="expert", id=sys.argv[2], version=1, spec={}, inputs={}),
    files={"weights": Path(sys.argv[3])}, metrics={}, seconds={},
)
"""


OPERATIONS = {"get", "put", "put_if_absent", "upload", "download", "list", "delete"}


class FaultyStore:
    """Fails every third operation, alternately before and after the operation takes effect."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._num_calls = 0

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._store, name)
        return partial(self._call, attribute) if name in OPERATIONS else attribute

    def _call(self, operation: Callable[..., object], *arguments: object) -> object:
        self._num_calls += 1
        if self._num_calls % 6 == 3:
            raise StoreUnavailableError("before")
        result = operation(*arguments)
        if self._num_calls % 6 == 0:
            raise StoreUnavailableError("after")
        return result


class DeafStore(FaultyStore):
    """A store that reports a won conditional put as lost, as happens when an answer is lost."""

    def _call(self, operation: Callable[..., object], *arguments: object) -> object:
        result = operation(*arguments)
        return False if operation.__name__ == "put_if_absent" else result


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Returns the file that tests commit."""
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path


def commit(
    artifacts: Artifacts,
    path: Path,
    *,
    artifact_id: str = ID,
    metrics: Mapping[str, Any] = MappingProxyType({"accuracy": 0.5}),
) -> Manifest:
    """Commits an expert that has two files with the same content."""
    provenance = Provenance(
        kind="expert",
        id=artifact_id,
        version=1,
        spec={"lr": 0.1, "betas": (0.9, 0.999)},
        inputs={OTHER_ID: "0" * 64},
    )
    files = {"weights": path, "config.json": path}
    return artifacts.commit(provenance, files=files, metrics=metrics, seconds={"trial": 1.5})


def test_committed_artifact_is_found(store: Store, weights: Path) -> None:
    """`commit` returns the manifest that every reader finds, with all fields as given."""
    artifacts = Artifacts(
        store,
        clock=lambda: 1_700_000_000.5,
        new_attempt=lambda: "00ff00ff00ff00ff",
        code_version=lambda: "1.2.3",
    )
    assert artifacts.find("expert", ID) is None
    manifest = commit(artifacts, weights)
    assert artifacts.find("expert", ID) == manifest
    assert (manifest.created_at_s, manifest.attempt) == (1_700_000_000.5, "00ff00ff00ff00ff")
    assert (manifest.code_version, manifest.outcome) == ("1.2.3", "done")
    assert manifest.spec == {"lr": 0.1, "betas": [0.9, 0.999]}
    assert [(f.name, f.size_bytes) for f in manifest.files] == [("config.json", 7), ("weights", 7)]


def test_commit_costs_one_request_per_file_and_one_more(store: Store, weights: Path) -> None:
    """Two files and a manifest cost three requests."""
    commit(Artifacts(store), weights)
    assert store.num_requests == 3


def test_second_commit_loses_without_overwriting(store: Store, weights: Path) -> None:
    """The loser returns the winner's manifest and deletes its own files."""
    artifacts = Artifacts(store)
    won = commit(artifacts, weights, metrics={"accuracy": 0.5})
    keys = [entry.key for entry in store.list("")]
    weights.write_bytes(b"other weights")
    assert commit(artifacts, weights, metrics={"accuracy": 0.9}) == won
    assert [entry.key for entry in store.list("")] == keys


def test_racing_workers_agree_on_one_winner(store: Store, weights: Path) -> None:
    """Four workers that commit one id at once return the same manifest, and its files exist."""
    artifacts = Artifacts(store)
    with ThreadPoolExecutor(4) as threads:
        manifests = list(threads.map(lambda _: commit(artifacts, weights), range(4)))
    assert len({manifest.attempt for manifest in manifests}) == 1
    files = [e.key for e in store.list(Layout.attempt("expert", ID, manifests[0].attempt))]
    assert len(files) == 2
    assert len(list(store.list(""))) == 3


def test_winner_that_was_reported_as_loser_keeps_its_files(store: Store, weights: Path) -> None:
    """After a lost answer, the winner must not delete the files that its manifest lists."""
    manifest = commit(Artifacts(DeafStore(store)), weights)
    prefix = Layout.attempt("expert", ID, manifest.attempt)
    assert [e.key for e in store.list(prefix)] == [f"{prefix}config.json", f"{prefix}weights"]


def test_worker_killed_before_the_manifest_leaves_nothing_visible(
    store: Store, weights: Path, tmp_path: Path
) -> None:
    """Uploaded files without a manifest are not an artifact, and the next attempt succeeds."""
    command = [sys.executable, "-c", KILLED_WORKER, store.url, ID, str(weights)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(store.list("artifacts/"))) == 1
    artifacts = Artifacts(store)
    assert artifacts.find("expert", ID) is None
    assert artifacts.committed_ids("expert") == set()
    manifest = commit(artifacts, weights)
    cache = NodeCache(tmp_path / "cache")
    assert artifacts.fetch(manifest, "weights", cache).read_bytes() == b"weights"


def test_store_that_fails_every_third_call_ends_with_whole_artifacts(
    store: Store, weights: Path, tmp_path: Path
) -> None:
    """After every failure, each artifact is absent or whole, and a retry completes it."""
    faulty, sound = Artifacts(FaultyStore(store)), Artifacts(store)
    cache = NodeCache(tmp_path / "cache")
    ids = [f"{i:016x}" for i in range(6)]
    num_failures = 0
    while missing := [i for i in ids if i not in sound.find_all("expert", ids)]:
        try:
            commit(faulty, weights, artifact_id=missing[0])
        except StoreUnavailableError:
            num_failures += 1
        for manifest in sound.find_all("expert", ids).values():
            assert sound.fetch(manifest, "weights", cache).read_bytes() == b"weights"
    assert num_failures > 3
    assert sound.committed_ids("expert") == set(ids)


def test_inexact_metric_is_refused_before_anything_is_uploaded(store: Store, weights: Path) -> None:
    """A NaN is refused by its path, before the first request."""
    with pytest.raises(ManifestError, match=r"metrics\.loss is nan"):
        commit(Artifacts(store), weights, metrics={"loss": float("nan")})
    assert store.num_requests == 0


def test_find_all_keeps_order_and_leaves_out_missing_artifacts(store: Store, weights: Path) -> None:
    """An id that occurs twice costs one request; the result has the order of the ids."""
    artifacts = Artifacts(store)
    for artifact_id in (ID, OTHER_ID):
        commit(artifacts, weights, artifact_id=artifact_id)
    before = store.num_requests
    found = artifacts.find_all("expert", [OTHER_ID, "0" * 16, ID, OTHER_ID])
    assert list(found) == [OTHER_ID, ID]
    assert store.num_requests - before == 3


def test_committed_ids_counts_manifests_of_the_kind_only(store: Store, weights: Path) -> None:
    """Manifests of other kinds, and files of an attempt without a manifest, do not count."""
    artifacts = Artifacts(store)
    commit(artifacts, weights)
    store.put(Layout.attempt_file("expert", OTHER_ID, attempt="0" * 16, name="weights"), b"")
    store.put(Layout.manifest("expert-2", OTHER_ID), b"")
    assert artifacts.committed_ids("expert") == {ID}


def test_manifest_of_another_artifact_is_refused(store: Store, weights: Path) -> None:
    """A manifest that was copied by hand to another id is refused."""
    artifacts = Artifacts(store)
    manifest = commit(artifacts, weights)
    store.put(Layout.manifest("expert", OTHER_ID), manifest.to_json())
    with pytest.raises(ManifestError, match=f"belongs to expert {ID}"):
        artifacts.find("expert", OTHER_ID)


def test_fetched_file_is_downloaded_once_per_node(
    store: Store, weights: Path, tmp_path: Path
) -> None:
    """A second process with the same cache makes no request to the store."""
    manifest = commit(Artifacts(store), weights)
    cache = NodeCache(tmp_path / "cache")
    path = Artifacts(store).fetch(manifest, "weights", cache)
    assert path.read_bytes() == b"weights"
    before = store.num_requests
    assert Artifacts(store).fetch(manifest, "weights", cache) == path
    assert store.num_requests == before


def test_local_store_returns_its_own_file(weights: Path, tmp_path: Path) -> None:
    """On one machine no file is copied, and the cache stays empty."""
    store = open_store(str(tmp_path / "store"))
    artifacts = Artifacts(store)
    path = artifacts.fetch(commit(artifacts, weights), "weights", NodeCache(tmp_path / "cache"))
    assert path.is_relative_to(tmp_path / "store")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"WEIGHTS", b"weigh", b""])
def test_corrupt_file_is_refused_with_both_sizes(
    store: Store, weights: Path, tmp_path: Path, content: bytes
) -> None:
    """Changed and truncated files are refused; the message has artifact, file and both sizes."""
    artifacts = Artifacts(store)
    manifest = commit(artifacts, weights)
    key = Layout.attempt_file("expert", ID, attempt=manifest.attempt, name="weights")
    store.put(key, content)
    for _ in range(2):
        with pytest.raises(CorruptArtifactError) as caught:
            artifacts.fetch(manifest, "weights", NodeCache(tmp_path / "cache"))
    message = str(caught.value)
    assert f"expert {ID}, file weights" in message
    assert "expected 7 bytes" in message
    assert f"found {len(content)} bytes" in message


def test_lost_file_and_unknown_file_raise_different_errors(
    store: Store, weights: Path, tmp_path: Path
) -> None:
    """A wrong name is a `ManifestError`; a listed file that the store lost has a remedy."""
    artifacts, cache = Artifacts(store), NodeCache(tmp_path / "cache")
    manifest = commit(artifacts, weights)
    with pytest.raises(ManifestError, match=r"its files: config\.json, weights"):
        artifacts.fetch(manifest, "weight", cache)
    store.delete([Layout.attempt_file("expert", ID, attempt=manifest.attempt, name="weights")])
    with pytest.raises(CorruptArtifactError, match=r"it is missing; run `mergesweep verify STUDY"):
        artifacts.fetch(manifest, "weights", cache)


def test_broken_manifests_are_all_named(store: Store, weights: Path) -> None:
    """The error has the reason for each broken manifest, and none for the intact one."""
    artifacts = Artifacts(store)
    whole, half, another = ID, OTHER_ID, "0" * 16
    manifest = commit(artifacts, weights)
    store.put(Layout.manifest("expert", half), manifest.to_json()[:100])
    store.put(Layout.manifest("expert", another), manifest.to_json())
    with pytest.raises(BrokenManifestsError) as caught:
        artifacts.find_all("expert", [whole, half, another])
    assert caught.value.kind == "expert"
    assert list(caught.value.problems) == [half, another]
    assert "is not JSON" in caught.value.problems[half]
    assert f"belongs to expert {ID}" in str(caught.value)


def test_whole_artifact_passes_the_check(store: Store, weights: Path) -> None:
    """The check reads every byte of its files; for an artifact without manifest it is None."""
    artifacts = Artifacts(store)
    commit(artifacts, weights)
    assert artifacts.check("expert", ID) == CheckResult(problem=None, size_bytes=14)
    assert artifacts.check("expert", OTHER_ID) is None


def test_check_reads_fetched_files_again(store: Store, weights: Path, tmp_path: Path) -> None:
    """A file can be damaged after a process has verified it."""
    artifacts = Artifacts(store)
    manifest = commit(artifacts, weights)
    artifacts.fetch(manifest, "weights", NodeCache(tmp_path / "cache"))
    key = Layout.attempt_file("expert", ID, attempt=manifest.attempt, name="weights")
    store.put(key, b"weighty")
    checked = artifacts.check("expert", ID)
    assert checked is not None
    assert "file weights of attempt" in str(checked.problem)
    store.delete([key])
    checked = artifacts.check("expert", ID)
    assert checked is not None
    assert str(checked.problem).endswith(": it is missing")
    assert checked.size_bytes == 7


def test_check_names_every_broken_file(store: Store, weights: Path) -> None:
    """Two broken files give one line with both problems."""
    artifacts = Artifacts(store)
    manifest = commit(artifacts, weights)
    for entry in manifest.files:
        key = Layout.attempt_file("expert", ID, attempt=manifest.attempt, name=entry.name)
        store.put(key, b"broken!")
    checked = artifacts.check("expert", ID)
    assert checked is not None
    assert "file config.json" in str(checked.problem)
    assert "; file weights" in str(checked.problem)


def test_file_name_that_leaves_the_root_is_a_problem(store: Store, weights: Path) -> None:
    """Even with a valid checksum, a manifest cannot make a reader open other files."""
    artifacts = Artifacts(store)
    manifest = commit(artifacts, weights)
    outside = replace(manifest.files[0], name="../../../secret")
    store.put(Layout.manifest("expert", ID), replace(manifest, files=(outside,)).to_json())
    checked = artifacts.check("expert", ID)
    assert checked is not None
    assert "'../../../secret' is not allowed" in str(checked.problem)


def test_withdrawn_artifact_can_be_committed_again(store: Store, weights: Path) -> None:
    """The artifact no longer exists, a copy of its manifest does, and the next attempt wins."""
    artifacts = Artifacts(store)
    first = commit(artifacts, weights)
    key = Layout.manifest("expert", ID)
    store.put(key, b"broken")
    copy = artifacts.withdraw("expert", ID)
    assert copy == key.replace("manifest", "withdrawn-0001")
    assert store.get(copy) == b"broken"
    assert artifacts.find("expert", ID) is None
    assert artifacts.committed_ids("expert") == set()
    second = commit(artifacts, weights)
    assert second.attempt != first.attempt
    assert artifacts.check("expert", ID) == CheckResult(problem=None, size_bytes=14)


def test_withdrawing_again_keeps_both_manifests(store: Store, weights: Path) -> None:
    """The second copy has the next number; withdrawing a missing artifact returns None."""
    artifacts = Artifacts(store)
    assert artifacts.withdraw("expert", ID) is None
    contents = [commit(artifacts, weights, metrics={"n": 1}).to_json()]
    copies = [artifacts.withdraw("expert", ID)]
    contents.append(commit(artifacts, weights, metrics={"n": 2}).to_json())
    copies.append(artifacts.withdraw("expert", ID))
    assert copies == [Layout.withdrawn("expert", ID, number) for number in (1, 2)]
    assert [store.get(copy) for copy in copies if copy] == contents

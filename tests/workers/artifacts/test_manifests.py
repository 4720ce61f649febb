import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from workers.artifacts.manifests import FileEntry, Manifest, ManifestError

MANIFEST = Manifest(
    kind="expert",
    id="0123456789abcdef",
    version=1,
    spec={"lr": 0.1, "steps": 100, "nested": {"b": [1, 2], "a": None}},
    inputs={"fedcba9876543210": "0" * 64},
    files=(FileEntry(name="expert.safetensors", size_bytes=12, sha256="ab" * 32),),
    attempt="00ff00ff00ff00ff",
    outcome="done",
    metrics={"accuracy": 0.9, "curve": [[1, 2.5]]},
    seconds={"trial": 1.25},
    created_at_s=1_700_000_000.125,
    code_version="0.1.0",
)


def changed(**fields: object) -> bytes:
    """Returns the manifest's bytes with other values of fields; `...` removes a field."""
    parsed = {**json.loads(MANIFEST.to_json()), **fields}
    kept = {name: value for name, value in parsed.items() if value is not ...}
    return json.dumps(kept).encode()


def test_read_manifest_equals_the_written_one() -> None:
    """A parsed manifest equals the original, and gives the same bytes again."""
    content = MANIFEST.to_json()
    again = Manifest.from_json(content, key="k")
    assert again == MANIFEST
    assert again.to_json() == content


def test_digest_is_the_sha256_of_the_stored_bytes() -> None:
    """The digest that a consumer records of its input can be checked with sha256sum."""
    assert MANIFEST.digest == hashlib.sha256(MANIFEST.to_json()).hexdigest()


def test_manifest_can_be_sent_between_processes() -> None:
    """A manifest can be pickled, since workers return manifests to the driver."""
    assert pickle.loads(pickle.dumps(MANIFEST)) == MANIFEST


def test_nan_metric_is_refused_with_its_path() -> None:
    """JSON has no NaN; a manifest stores a diverged loss as None."""
    diverged = replace(MANIFEST, metrics={"train": {"loss": float("nan")}})
    with pytest.raises(ManifestError, match=r"metrics\.train\.loss is nan"):
        diverged.to_json()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "a list, expected a JSON object"),
        (changed(spec=..., metrics=...), "no field metrics, spec"),
        (changed(colour="red"), "unknown field colour"),
        (changed(version="1"), "version is '1' of type str"),
        (changed(version=True), "version is True of type bool"),
        (changed(outcome="failed"), "outcome is 'failed'"),
        (changed(files=[3]), r"files\[0\] is a int"),
        (changed(files=[{"name": "x", "size_bytes": 1}]), r"files\[0\] has no field sha256"),
        (changed(checksum=...), "no field checksum"),
        (changed(metrics={"accuracy": 0.8}), "does not match its checksum"),
        (MANIFEST.to_json().replace(b"0.9", b"0.8"), "does not match its checksum"),
        (MANIFEST.to_json()[:-1], "does not match its checksum"),
        (MANIFEST.to_json()[:300], "not JSON"),
    ],
)
def test_broken_manifest_is_refused_with_key_and_problem(content: bytes, problem: str) -> None:
    """The message has the manifest's key and the problem."""
    with pytest.raises(ManifestError, match=problem) as caught:
        Manifest.from_json(content, key="artifacts/expert/01/x/manifest.json")
    assert "artifacts/expert/01/x/manifest.json" in str(caught.value)


def test_unknown_file_is_refused_with_the_known_names() -> None:
    """The message for a wrong name lists the names of the artifact's files."""
    with pytest.raises(ManifestError, match=r"no file 'x'.*expert\.safetensors"):
        MANIFEST.file("x")
    assert MANIFEST.file("expert.safetensors").size_bytes == 12


def test_file_is_compared_with_its_entry(tmp_path: Path) -> None:
    """Other bytes give a message with both sizes and digests; the file's name does not matter."""
    path = tmp_path / "x"
    path.write_bytes(b"weights")
    entry = FileEntry.of(path, name="weights")
    assert (entry.name, entry.size_bytes) == ("weights", 7)
    assert entry.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert entry.difference(path) is None
    path.write_bytes(b"weighty")
    digest = hashlib.sha256(b"weighty").hexdigest()
    assert entry.difference(path) == (
        f"expected 7 bytes with sha256 {entry.sha256}, found 7 bytes with sha256 {digest}"
    )

"""The commit protocol: an artifact exists if and only if its manifest does, and then it is whole.

A worker uploads its files under a fresh attempt and then writes the manifest on the condition that
there is none. Of several workers on one artifact the first wins; a worker that was thought dead
and comes back can only lose. What a worker leaves that dies before its manifest, no reader sees.

    ManifestError (ValueError)    a manifest that cannot be written or read
    └── BrokenManifestsError      those of several artifacts, with their ids
    CorruptArtifactError          a file that is not what its manifest says
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.artifacts.code_version import code_version as running_code
from workers.artifacts.layout import InvalidNameError, Layout
from workers.artifacts.manifests import FileEntry, Manifest, ManifestError, ManifestOutcome
from workers.artifacts.node_cache import NodeCache
from workers.store.protocol import NotFoundError, Store


class CorruptArtifactError(Exception):
    """A file is not what its manifest says; the message has both sizes and digests."""


class BrokenManifestsError(ManifestError):
    """Manifests of some artifacts cannot be read; `problems` says of each id what is wrong."""

    def __init__(self, kind: str, *, problems: Mapping[str, str]) -> None:
        self.kind = kind
        self.problems = dict(problems)
        super().__init__("; ".join(problems.values()))


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What reading an artifact whole found."""

    problem: str | None
    """What is wrong with it, in words; None when every byte is what was committed."""

    size_bytes: int
    """How much of its files was read."""


def random_attempt() -> str:
    """Returns the name of a new attempt: 16 random hexadecimal digits."""
    return secrets.token_hex(8)


class Artifacts:
    """Finds, commits and fetches the artifacts of a store; safe for any number of threads.

    Every method may raise the errors of the store's contract.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        new_attempt: Callable[[], str] = random_attempt,
        code_version: Callable[[], str] = running_code,
    ) -> None:
        """Asks nothing of the store yet.

        Args:
            store: Where the artifacts are.
            clock: Seconds since 1970, for the manifests.
            new_attempt: A name that no other attempt has.
            code_version: What the manifests say made the artifacts.
        """
        self.store = store
        self._clock = clock
        self._new_attempt = new_attempt
        self._code_version = code_version
        self._verified: set[str] = set()

    def find(self, kind: str, artifact_id: str) -> Manifest | None:
        """Returns an artifact's manifest, or None while it is not committed; one request.

        Raises:
            ManifestError: What lies under the key is not this artifact's manifest.
        """
        key = Layout.manifest(kind, artifact_id)
        try:
            content = self.store.get(key)
        except NotFoundError:
            return None
        manifest = Manifest.from_json(content, key=key)
        if (manifest.kind, manifest.id) != (kind, artifact_id):
            raise ManifestError(f"manifest {key} is that of {manifest.kind} {manifest.id}")
        return manifest

    def find_all(
        self, kind: str, artifact_ids: Iterable[str], *, max_threads: int = 16
    ) -> dict[str, Manifest]:
        """Returns the manifests of those artifacts that are committed, by id; one request each.

        The order is that of the ids. Where few of many are expected, ask `committed_ids` first.

        Raises:
            BrokenManifestsError: What lies under some of the keys is no manifest of theirs.
        """
        ids = list(dict.fromkeys(artifact_ids))
        with ThreadPoolExecutor(max_threads) as threads:
            found = dict(
                zip(ids, threads.map(lambda each: self._look(kind, each), ids), strict=True)
            )
        problems = {each: str(what) for each, what in found.items() if isinstance(what, Exception)}
        if problems:
            raise BrokenManifestsError(kind, problems=problems)
        return {each: what for each, what in found.items() if isinstance(what, Manifest)}

    def _look(self, kind: str, artifact_id: str) -> Manifest | ManifestError | None:
        try:
            return self.find(kind, artifact_id)
        except ManifestError as error:
            return error

    def committed_ids(self, kind: str) -> set[str]:
        """Returns the ids of all committed artifacts of a kind, from a listing alone."""
        entries = self.store.list(Layout.artifacts(kind))
        addresses = (Layout.parse_manifest_key(entry.key) for entry in entries)
        return {address.id for address in addresses if address is not None}

    def commit(
        self,
        kind: str,
        artifact_id: str,
        *,
        version: int,
        spec: Mapping[str, Any],
        inputs: Mapping[str, str],
        files: Mapping[str, Path],
        outcome: ManifestOutcome,
        metrics: Mapping[str, Any],
        seconds: Mapping[str, float],
    ) -> Manifest:
        """Uploads files and makes the artifact exist, unless another attempt was first.

        One request a file (more for one that travels in parts) and one for the manifest.

        Returns:
            The winner's manifest: this attempt's, or the one that was there. In that case this
            attempt's files are removed.

        Raises:
            ManifestError: A value is not exact in JSON, NaN for example; nothing was uploaded.
        """
        manifest = Manifest(
            kind=kind,
            id=artifact_id,
            version=version,
            spec=spec,
            inputs=inputs,
            files=tuple(FileEntry.of(files[name], name=name) for name in sorted(files)),
            attempt=self._new_attempt(),
            outcome=outcome,
            metrics=metrics,
            seconds=seconds,
            created_at_s=self._clock(),
            code_version=self._code_version(),
        )
        key, content = Layout.manifest(kind, artifact_id), manifest.to_json()
        for entry in manifest.files:
            self.store.upload(_file_key(manifest, entry), files[entry.name])
        if self.store.put_if_absent(key, content):
            return Manifest.from_json(content, key=key)  # as every reader sees it: no tuples
        return self._yield_to_winner(manifest)

    def fetch(self, manifest: Manifest, name: str, cache: NodeCache) -> Path:
        """Returns a local, read-only file of an artifact, verified against its manifest.

        From a local store that is the store's own file, read once by each process to verify it and
        never copied; from S3 it is the node's cached copy, downloaded by one process and verified
        before any process sees it.

        Raises:
            ManifestError: The artifact has no file of this name.
            CorruptArtifactError: The content is not what the manifest says.
            NotFoundError: The manifest is there and the file is not.
        """
        entry = manifest.file(name)
        key = _file_key(manifest, entry)
        own_file = self.store.local_path(key)
        if own_file is None:
            return cache.get(entry.sha256, lambda path: self._download(manifest, entry, path=path))
        if key not in self._verified:
            self._verify(manifest, entry, path=own_file)
            self._verified.add(key)
        return own_file

    def check(self, kind: str, artifact_id: str) -> Checked | None:
        """Reads an artifact whole and compares it with its manifest; None if there is none.

        Files come from S3 one at a time into a temporary file, so that a thread takes as much of
        the disk as the largest file. Nothing is remembered: every call reads every byte.
        """
        try:
            manifest = self.find(kind, artifact_id)
            if manifest is None:
                return None
            found = [self._check_file(manifest, entry) for entry in manifest.files]
        except (ManifestError, InvalidNameError) as error:
            return Checked(problem=str(error), size_bytes=0)
        problems = [each.problem for each in found if each.problem]
        return Checked(
            problem="; ".join(problems) or None, size_bytes=sum(each.size_bytes for each in found)
        )

    def withdraw(self, kind: str, artifact_id: str) -> str | None:
        """Takes a broken artifact out: it no longer exists, and whoever needs it makes it again.

        What lay under the manifest's key is kept beside it; the files of the attempt stay too.
        Not for an artifact that someone is making: only while no run uses the store's studies.

        Returns:
            The key of the manifest's copy; None if there was no manifest.
        """
        key = Layout.manifest(kind, artifact_id)
        try:
            content = self.store.get(key)
        except NotFoundError:
            return None
        # Counted, not put on a condition: a weak store would overwrite the one before.
        number = 1 + sum(1 for _ in self.store.list(Layout.withdrawn(kind, artifact_id)))
        copy = Layout.withdrawn(kind, artifact_id, number)
        self.store.put(copy, content)
        self.store.delete([key])
        return copy

    def _check_file(self, manifest: Manifest, entry: FileEntry) -> Checked:
        try:
            with self._local_copy(_file_key(manifest, entry)) as path:
                problem, size_bytes = entry.difference(path), path.stat().st_size
        except NotFoundError:
            problem, size_bytes = "it is missing", 0
        if problem is not None:
            problem = f"file {entry.name} of attempt {manifest.attempt}: {problem}"
        return Checked(problem=problem, size_bytes=size_bytes)

    @contextmanager
    def _local_copy(self, key: str) -> Iterator[Path]:
        own_file = self.store.local_path(key)
        if own_file is not None:
            yield own_file
            return
        with tempfile.TemporaryDirectory(prefix="mergesweep-check-") as scratch:
            path = Path(scratch) / "file"
            self.store.download(key, path)
            yield path

    def _download(self, manifest: Manifest, entry: FileEntry, *, path: Path) -> None:
        self.store.download(_file_key(manifest, entry), path)
        self._verify(manifest, entry, path=path)

    def _verify(self, manifest: Manifest, entry: FileEntry, *, path: Path) -> None:
        problem = entry.difference(path)
        if problem is not None:
            raise CorruptArtifactError(
                f"{manifest.kind} {manifest.id}, file {entry.name} of attempt {manifest.attempt}: "
                f"{problem}; `mergesweep verify STUDY --store {self.store.url}` takes it out, and "
                "the next run makes it again"
            )

    def _yield_to_winner(self, loser: Manifest) -> Manifest:
        winner = self.find(loser.kind, loser.id)
        if winner is None:
            raise NotFoundError(
                f"{loser.kind} {loser.id} was committed and deleted while attempt {loser.attempt} "
                f"committed it to {self.store.url}; run the same command again"
            )
        # A store that repeated a request may call the attempt that won the loser.
        if winner.attempt != loser.attempt:
            self.store.delete([_file_key(loser, entry) for entry in loser.files])
        return winner


def _file_key(manifest: Manifest, entry: FileEntry) -> str:
    return Layout.attempt_file(
        manifest.kind, manifest.id, attempt=manifest.attempt, name=entry.name
    )

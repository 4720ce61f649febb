"""The commit protocol: an artifact exists if and only if its manifest exists, and then it is whole.

A worker uploads its files under a new attempt, and then writes the manifest with a conditional put.
If several workers make the same artifact, the first manifest wins. A worker that was wrongly taken
for dead can therefore never overwrite anything. Files of a worker that dies before it writes its
manifest are invisible to readers.

    ManifestError (ValueError)           a manifest cannot be written or read
    └── BrokenManifestsError             several manifests cannot be read; has the ids
    CorruptArtifactError (StoreError)    a file is missing, or differs from its manifest's entry
"""

import secrets
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from workers.artifacts.code_version import code_version as running_code
from workers.artifacts.layout import ArtifactAddress, InvalidNameError, Layout
from workers.artifacts.manifests import FileEntry, Manifest, ManifestError, ManifestOutcome
from workers.artifacts.node_cache import NodeCache
from workers.artifacts.provenance import Provenance
from workers.specs.measures import MEASURED_KINDS
from workers.store.protocol import Entry, NotFoundError, Store, StoreError
from workers.store.scratch import scratch_directory


class CorruptArtifactError(StoreError):
    """A file is missing, or differs from the entry in its manifest; the message has the remedy."""


class BrokenManifestsError(ManifestError):
    """The manifests of some artifacts cannot be read; `problems` has the reason for each id."""

    def __init__(self, kind: str, *, problems: Mapping[str, str]) -> None:
        self.kind = kind
        self.problems = dict(problems)
        super().__init__("; ".join(problems.values()))


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of reading all files of an artifact."""

    problem: str | None
    """A sentence for the user that says what is broken; None if every byte is as committed."""

    size_bytes: int
    """Number of bytes that were read."""


def random_attempt() -> str:
    """Returns the name of a new attempt: 16 random hexadecimal digits."""
    return secrets.token_hex(8)


class Artifacts:
    """The artifacts of a store; safe to use from any number of threads.

    Every method may raise the errors of `workers.store.protocol`.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        new_attempt: Callable[[], str] = random_attempt,
        code_version: Callable[[], str] = running_code,
    ) -> None:
        """Takes the store, without a request to it.

        Args:
            store: The store that holds the artifacts.
            clock: Returns the seconds since 1970; manifests record them.
            new_attempt: Returns a name that no other attempt has.
            code_version: Returns the version of mergesweep that manifests record.
        """
        self.store = store
        self._clock = clock
        self._new_attempt = new_attempt
        self._code_version = code_version
        self._verified: set[str] = set()

    def find(self, kind: str, artifact_id: str) -> Manifest | None:
        """Returns an artifact's manifest, or None if it is not committed; costs one request.

        Raises:
            ManifestError: The object under the manifest's key is not this artifact's manifest.
        """
        key = Layout.manifest(kind, artifact_id)
        try:
            content = self.store.get(key)
        except NotFoundError:
            return None
        manifest = Manifest.from_json(content, key=key)
        if (manifest.kind, manifest.id) != (kind, artifact_id):
            raise ManifestError(
                f"manifest {key} belongs to {manifest.kind} {manifest.id}, not to {kind} "
                f"{artifact_id}"
            )
        return manifest

    def find_all(
        self, kind: str, artifact_ids: Iterable[str], *, max_threads: int = 16
    ) -> dict[str, Manifest]:
        """Returns the manifests of the committed artifacts among some ids; one request per id.

        The result has the order of the ids. If only few of many ids are expected to be committed,
        call `committed_ids` first.

        Raises:
            BrokenManifestsError: The manifests of one or more ids cannot be read.
        """
        ids = list(dict.fromkeys(artifact_ids))
        with ThreadPoolExecutor(max_threads) as threads:
            answers = threads.map(lambda each: self._find_or_error(kind, each), ids)
            found = dict(zip(ids, answers, strict=True))
        problems = {
            each: str(answer) for each, answer in found.items() if isinstance(answer, ManifestError)
        }
        if problems:
            raise BrokenManifestsError(kind, problems=problems)
        return {each: answer for each, answer in found.items() if isinstance(answer, Manifest)}

    def _find_or_error(self, kind: str, artifact_id: str) -> Manifest | ManifestError | None:
        try:
            return self.find(kind, artifact_id)
        except ManifestError as error:
            return error

    def committed_ids(self, kind: str) -> set[str]:
        """Returns the ids of all committed artifacts of a kind, from a listing of the store."""
        return {address.id for address in self.listed([Layout.artifacts(kind)])}

    def listed(
        self, prefixes: Iterable[str], *, max_threads: int = 16
    ) -> dict[ArtifactAddress, Entry]:
        """Returns the entries of all manifests below some prefixes, which are listed in parallel.

        Args:
            prefixes: Prefixes of which none is the beginning of another.
            max_threads: The most listings at a time.
        """

        def entries(prefix: str) -> list[tuple[ArtifactAddress, Entry]]:
            found = ((Layout.parse_manifest_key(e.key), e) for e in self.store.list(prefix))
            return [(address, entry) for address, entry in found if address is not None]

        with ThreadPoolExecutor(max_threads) as threads:
            return dict(chain.from_iterable(threads.map(entries, prefixes)))

    def commit(
        self,
        provenance: Provenance,
        *,
        files: Mapping[str, Path],
        metrics: Mapping[str, Any],
        seconds: Mapping[str, float],
        outcome: ManifestOutcome = "done",
        execution: Mapping[str, float] | None = None,
    ) -> Manifest:
        """Uploads files and then writes the manifest, unless another attempt has already done so.

        Costs one request for each file (more for a file that is uploaded in parts) and one for the
        manifest.

        Args:
            provenance: The artifact's identity, specification and inputs.
            files: Local files by their names in the artifact; empty if it has none.
            metrics: See `Manifest.metrics`.
            seconds: See `Manifest.seconds`.
            outcome: See `Manifest.outcome`.
            execution: See `Manifest.execution`.

        Returns:
            The manifest of the winner. If another attempt was first, this attempt's files are
            deleted and the result is the other attempt's manifest.

        Raises:
            ManifestError: A value has no exact form in JSON, for example NaN. Nothing was uploaded.
        """
        manifest = Manifest(
            kind=provenance.kind,
            id=provenance.id,
            version=provenance.version,
            spec=provenance.spec,
            inputs=provenance.inputs,
            files=tuple(FileEntry.of(files[name], name=name) for name in sorted(files)),
            attempt=self._new_attempt(),
            outcome=outcome,
            metrics=metrics,
            seconds=seconds,
            created_at_s=self._clock(),
            code_version=self._code_version(),
            execution=execution or {},
        )
        key, content = Layout.manifest(manifest.kind, manifest.id), manifest.to_json()
        for entry in manifest.files:
            self.store.upload(_file_key(manifest, entry), files[entry.name])
        if self.store.put_if_absent(key, content):
            # Parsed again, so that the result equals what readers get: lists in place of tuples.
            return Manifest.from_json(content, key=key)
        return self._yield_to_winner(manifest)

    def fetch(self, manifest: Manifest, name: str, cache: NodeCache) -> Path:
        """Returns a local, read-only file of an artifact, verified against its manifest.

        A local store returns its own file without a copy; each process reads the file once to
        verify it. From S3, one process of the node downloads and verifies the file, and all
        processes use the copy in the node's cache.

        Raises:
            ManifestError: The artifact has no file of this name.
            CorruptArtifactError: The file is missing, or its content differs from the manifest.
        """
        entry = manifest.file(name)
        key = _file_key(manifest, entry)
        try:
            own_file = self.store.local_path(key)
            if own_file is None:
                return cache.get(
                    entry.sha256, lambda path: self._download(manifest, entry, path=path)
                )
        except NotFoundError as error:
            raise self._corrupt(manifest, entry, problem="it is missing") from error
        if key not in self._verified:
            self._verify(manifest, entry, path=own_file)
            self._verified.add(key)
        return own_file

    def check(self, kind: str, artifact_id: str) -> CheckResult | None:
        """Compares all files of an artifact with its manifest; returns None if it has no manifest.

        Each call reads every byte again. From S3, a thread downloads one file at a time to a
        temporary file, and so needs as much disk space as the largest file.
        """
        try:
            manifest = self.find(kind, artifact_id)
            if manifest is None:
                return None
            results = [self._check_file(manifest, entry) for entry in manifest.files]
        except (ManifestError, InvalidNameError) as error:
            return CheckResult(problem=str(error), size_bytes=0)
        problems = [result.problem for result in results if result.problem]
        return CheckResult(
            problem="; ".join(problems) or None,
            size_bytes=sum(result.size_bytes for result in results),
        )

    def withdraw(self, kind: str, artifact_id: str) -> str | None:
        """Removes a broken artifact, so that the next run that needs it makes it again.

        The manifest is copied to another key and then deleted. The attempt's files are kept. Call
        this only while no run uses the studies of the store: another worker may be making the
        artifact.

        Returns:
            The key of the manifest's copy; None if there was no manifest.
        """
        key = Layout.manifest(kind, artifact_id)
        try:
            content = self.store.get(key)
        except NotFoundError:
            return None
        # Counted instead of put conditionally: a store that ignores the condition would overwrite
        # the previous copy.
        number = 1 + sum(1 for _ in self.store.list(Layout.withdrawn(kind, artifact_id)))
        copy = Layout.withdrawn(kind, artifact_id, number)
        self.store.put(copy, content)
        self.store.delete([key])
        return copy

    def _check_file(self, manifest: Manifest, entry: FileEntry) -> CheckResult:
        try:
            with self._local_copy(_file_key(manifest, entry)) as path:
                problem, size_bytes = entry.difference(path), path.stat().st_size
        except NotFoundError:
            problem, size_bytes = "it is missing", 0
        if problem is not None:
            problem = f"file {entry.name} of attempt {manifest.attempt}: {problem}"
        return CheckResult(problem=problem, size_bytes=size_bytes)

    @contextmanager
    def _local_copy(self, key: str) -> Iterator[Path]:
        own_file = self.store.local_path(key)
        if own_file is not None:
            yield own_file
            return
        with scratch_directory("verify") as scratch:
            path = scratch / "file"
            self.store.download(key, path)
            yield path

    def _download(self, manifest: Manifest, entry: FileEntry, *, path: Path) -> None:
        self.store.download(_file_key(manifest, entry), path)
        self._verify(manifest, entry, path=path)

    def _verify(self, manifest: Manifest, entry: FileEntry, *, path: Path) -> None:
        problem = entry.difference(path)
        if problem is not None:
            raise self._corrupt(manifest, entry, problem=problem)

    def _corrupt(
        self, manifest: Manifest, entry: FileEntry, *, problem: str
    ) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"{manifest.kind} {manifest.id}, file {entry.name} of attempt {manifest.attempt}: "
            f"{problem}; {self.remedy(manifest.kind)}"
        )

    def remedy(self, kind: str) -> str:
        """Returns the commands that withdraw a damaged artifact of a kind and make it again."""
        maker = "`mergesweep measure STUDY`" if kind in MEASURED_KINDS else "the study"
        return (
            f"run `mergesweep verify STUDY --store {shlex.quote(self.store.url)}`, which withdraws "
            f"the artifact, and then {maker} again, which makes it again"
        )

    def _yield_to_winner(self, loser: Manifest) -> Manifest:
        winner = self.find(loser.kind, loser.id)
        if winner is None:
            raise NotFoundError(
                f"while attempt {loser.attempt} committed {loser.kind} {loser.id} to "
                f"{self.store.url}, another attempt committed it and it was deleted again; run the "
                "same command again"
            )
        # The store may have repeated a put that had succeeded, and then reports the winner as the
        # loser. The winner's files must stay.
        if winner.attempt != loser.attempt:
            self.store.delete([_file_key(loser, entry) for entry in loser.files])
        return winner


def _file_key(manifest: Manifest, entry: FileEntry) -> str:
    return Layout.attempt_file(
        manifest.kind, manifest.id, attempt=manifest.attempt, name=entry.name
    )

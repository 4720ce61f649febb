"""The manifest of an artifact: the file that is written last and makes the artifact exist.

A manifest is checksummed JSON, so that a reader notices any byte that changed after writing.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from eval.digests import sha256_of_bytes, sha256_of_file
from workers.artifacts.checksummed_json import (
    CHECKSUM,
    DamagedJsonError,
    dump_checksummed,
    verify_checksum,
)
from workers.specs.ids import UnhashableSpecError, plain_json

ManifestOutcome = Literal["done", "diverged"]
"""`diverged` if a training loss or the final weights were NaN or infinite."""


class ManifestError(ValueError):
    """A manifest cannot be written or read; the message has its key and the field."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """The name, size and digest of one file of an artifact."""

    name: str
    """File name inside the attempt, without directories."""

    size_bytes: int
    """Length of the file."""

    sha256: str
    """Digest of the content, 64 hexadecimal digits."""

    @staticmethod
    def of(path: Path, *, name: str) -> "FileEntry":
        """Returns the entry of a local file; reads the file once."""
        return FileEntry(name=name, size_bytes=path.stat().st_size, sha256=sha256_of_file(path))

    def difference(self, path: Path) -> str | None:
        """Returns how a local file differs from this entry, for a message; None if it does not."""
        found = FileEntry.of(path, name=self.name)
        if found == self:
            return None
        return (
            f"expected {self.size_bytes} bytes with sha256 {self.sha256}, found "
            f"{found.size_bytes} bytes with sha256 {found.sha256}"
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a committed artifact: origin, files, outcome and measurements."""

    kind: str
    """See `Provenance.kind`."""

    id: str
    """See `Provenance.id`."""

    version: int
    """Version of the kind when the artifact was made."""

    spec: Mapping[str, Any]
    """See `Provenance.spec`."""

    inputs: Mapping[str, str]
    """See `Provenance.inputs`."""

    files: tuple[FileEntry, ...]
    """Entries of the files, ordered by name."""

    attempt: str
    """Name of the attempt that won; its files lie under the prefix `Layout.attempt`."""

    outcome: ManifestOutcome
    """See `ManifestOutcome`."""

    metrics: Mapping[str, Any]
    """Measurements that are equal whenever the specification is run; None for a missing value.

    See `workers.artifacts.metrics` for those of experts, pretrained bases and merges."""

    seconds: Mapping[str, float]
    """Duration of each phase, in seconds; differs between attempts."""

    created_at_s: float
    """Time at which the commit began, in seconds since 1970 (UTC)."""

    code_version: str
    """Version of mergesweep that made the artifact."""

    execution: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The memory of a training that ran out of memory before: `gpu`, the worker's GPUs;
    `out_of_memory`, the failed tries; `micro_batch`, the most images of a forward pass, if batches
    were split. Empty for all others, and then absent from the bytes."""

    @cached_property
    def digest(self) -> str:
        """The sha256 of the manifest's bytes in the store, 64 hexadecimal digits."""
        return sha256_of_bytes(self.to_json())

    def file(self, name: str) -> FileEntry:
        """Returns the entry of a file.

        Raises:
            ManifestError: The artifact has no such file; the message lists its files.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.files) or "none"
        raise ManifestError(f"{self.kind} {self.id} has no file {name!r}; its files: {names}")

    def to_json(self) -> bytes:
        """Returns the bytes to store; parsing and writing them again gives the same bytes.

        Raises:
            ManifestError: A value has no exact form in JSON, for example NaN.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["files"] = [dataclasses.asdict(entry) for entry in self.files]
        if not self.execution:
            del fields["execution"]
        try:
            plain = plain_json(fields)
        except UnhashableSpecError as error:
            raise ManifestError(f"manifest of {self.kind} {self.id}: {error}") from error
        return dump_checksummed(plain)

    @staticmethod
    def from_json(content: bytes, *, key: str) -> "Manifest":
        """Parses a manifest from the bytes that `to_json` returned.

        Args:
            content: The bytes.
            key: The manifest's key, for messages.

        Raises:
            ManifestError: The bytes are not JSON; a field is missing, unknown or of another type;
                or the checksum does not match.
        """
        try:
            parsed = json.loads(content)
        except ValueError as error:
            raise ManifestError(f"manifest {key} is not JSON: {error}") from error
        fields = _checked_fields(parsed, types=_MANIFEST_TYPES, where=f"manifest {key}")
        if fields["outcome"] not in get_args(ManifestOutcome):
            raise ManifestError(
                f"manifest {key}: outcome is {fields['outcome']!r}, expected one of "
                f"{', '.join(get_args(ManifestOutcome))}"
            )
        files = tuple(
            FileEntry(
                **_checked_fields(entry, types=_FILE_TYPES, where=f"manifest {key}: files[{i}]")
            )
            for i, entry in enumerate(fields.pop("files"))
        )
        # Last, so that a file that was edited by hand fails with the name of the wrong field.
        try:
            verify_checksum(content)
        except DamagedJsonError as error:
            raise ManifestError(f"manifest {key} {error}") from error
        del fields[CHECKSUM]
        return Manifest(files=files, **fields)


# Python types of the parsed JSON values.
_FILE_TYPES: dict[str, tuple[type, ...]] = {"name": (str,), "size_bytes": (int,), "sha256": (str,)}
_MANIFEST_TYPES: dict[str, tuple[type, ...]] = {
    CHECKSUM: (str,),
    "kind": (str,),
    "id": (str,),
    "version": (int,),
    "spec": (dict,),
    "inputs": (dict,),
    "files": (list,),
    "attempt": (str,),
    "outcome": (str,),
    "metrics": (dict,),
    "seconds": (dict,),
    "created_at_s": (float, int),
    "code_version": (str,),
    "execution": (dict,),
}
_OPTIONAL = {"execution"}


def _checked_fields(
    parsed: object, *, types: Mapping[str, tuple[type, ...]], where: str
) -> dict[str, Any]:
    if not isinstance(parsed, dict):
        raise ManifestError(f"{where} is a {type(parsed).__name__}, expected a JSON object")
    if missing := sorted(types.keys() - parsed.keys() - _OPTIONAL):
        raise ManifestError(f"{where} has no field {', '.join(missing)}")
    if unknown := sorted(parsed.keys() - types.keys()):
        raise ManifestError(f"{where} has the unknown field {', '.join(unknown)}")
    for name, value in parsed.items():
        if type(value) not in types[name]:  # not isinstance, for which a bool is an int
            expected = " or ".join(each.__name__ for each in types[name])
            raise ManifestError(
                f"{where}: {name} is {value!r} of type {type(value).__name__}, expected {expected}"
            )
    return parsed

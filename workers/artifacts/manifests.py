"""The manifest of an artifact: the file that is written last and makes the artifact exist.

It is sealed: any byte of it that changed after it was written is found when it is read.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
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


class ManifestError(ValueError):
    """A manifest cannot be written or read; the message names its key and the field."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact, as it was uploaded."""

    name: str
    """Its name inside the attempt, without directories."""

    size_bytes: int
    """Its length."""

    sha256: str
    """The digest of its content, 64 hexadecimal digits."""

    @staticmethod
    def of(path: Path, *, name: str) -> "FileEntry":
        """Returns the entry of a local file, which is read once."""
        return FileEntry(name=name, size_bytes=path.stat().st_size, sha256=sha256_of_file(path))

    def difference(self, path: Path) -> str | None:
        """Says how a local file differs from this entry; None when it does not."""
        found = FileEntry.of(path, name=self.name)
        if found == self:
            return None
        return (
            f"expected {self.size_bytes} bytes with sha256 {self.sha256}, found "
            f"{found.size_bytes} bytes with {found.sha256}"
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a reader needs to know of an artifact before it opens a file of it."""

    kind: str
    """What it is, such as `expert` or `merge`."""

    id: str
    """The content id of kind, version, spec and inputs."""

    version: int
    """The meaning of the kind when it was made."""

    spec: Mapping[str, Any]
    """All that defines the result."""

    inputs: Mapping[str, str]
    """The artifacts consumed: id to the digest of the manifest that was read."""

    files: tuple[FileEntry, ...]
    """The files, ordered by name."""

    attempt: str
    """The attempt that won, and with it the prefix under which the files lie."""

    outcome: ManifestOutcome
    """`done`, or `diverged` when the training loss became NaN or infinite."""

    metrics: Mapping[str, Any]
    """What was measured and is the same in every run of this spec; None where there is no value."""

    seconds: Mapping[str, float]
    """How long each phase took, in seconds; differs from run to run."""

    created_at_s: float
    """When the commit began, in seconds since 1970 (UTC)."""

    code_version: str
    """The version of mergesweep that made it."""

    @property
    def digest(self) -> str:
        """The sha256 of the manifest's bytes in the store."""
        return sha256_of_bytes(self.to_json())

    def file(self, name: str) -> FileEntry:
        """Returns the entry of a file.

        Raises:
            ManifestError: The artifact has no such file; the message lists those that it has.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.files) or "none"
        raise ManifestError(f"{self.kind} {self.id} has no file {name!r}; its files: {names}")

    def to_json(self) -> bytes:
        """Returns the bytes that are stored; reading and writing them again changes nothing.

        Raises:
            ManifestError: A spec, metric or duration is not exact in JSON, NaN for example.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["files"] = [dataclasses.asdict(entry) for entry in self.files]
        try:
            plain = plain_json(fields)
        except UnhashableSpecError as error:
            raise ManifestError(f"manifest of {self.kind} {self.id}: {error}") from error
        return dump_checksummed(plain)

    @staticmethod
    def from_json(content: bytes, *, key: str) -> "Manifest":
        """Returns the manifest that the bytes say.

        Args:
            content: What `to_json` returned.
            key: Where it was read; only messages use it.

        Raises:
            ManifestError: Not JSON, a field is missing, unknown or of another type, or a byte is
                not as it was written.
        """
        try:
            parsed = json.loads(content)
        except ValueError as error:
            raise ManifestError(f"manifest {key} is not JSON: {error}") from error
        fields = _checked_fields(parsed, types=_MANIFEST_TYPES, where=f"manifest {key}")
        if fields["outcome"] not in get_args(ManifestOutcome):
            raise ManifestError(f"manifest {key}: outcome is {fields['outcome']!r}")
        files = tuple(
            FileEntry(
                **_checked_fields(entry, types=_FILE_TYPES, where=f"manifest {key}: files[{i}]")
            )
            for i, entry in enumerate(fields.pop("files"))
        )
        # Last: a file made by hand hears which field is wrong, not that it has another checksum.
        try:
            verify_checksum(content)
        except DamagedJsonError as error:
            raise ManifestError(f"manifest {key} {error}") from error
        del fields[CHECKSUM]
        return Manifest(files=files, **fields)


# What JSON parses into; a mapping or tuple in a dataclass is an object or array in the file.
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
}


def _checked_fields(
    parsed: object, *, types: Mapping[str, tuple[type, ...]], where: str
) -> dict[str, Any]:
    if not isinstance(parsed, dict):
        raise ManifestError(f"{where} is a {type(parsed).__name__}, not an object")
    if missing := sorted(types.keys() - parsed.keys()):
        raise ManifestError(f"{where} has no field {', '.join(missing)}")
    if unknown := sorted(parsed.keys() - types.keys()):
        raise ManifestError(f"{where} has the unknown field {', '.join(unknown)}")
    for name, value in parsed.items():
        if type(value) not in types[name]:  # exact, as a bool is an int to isinstance
            raise ManifestError(f"{where}: {name} is {value!r} of type {type(value).__name__}")
    return parsed

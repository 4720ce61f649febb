"""Spells and parses every path under a store's root.

    artifacts/<kind>/<id[:2]>/<id>/manifest.json     written last; the artifact exists if it does
    artifacts/<kind>/<id[:2]>/<id>/<attempt>/<file>  files that one attempt uploaded
    artifacts/<kind>/<id[:2]>/<id>/withdrawn-<n>.json  a broken manifest that was withdrawn
    in-flight/<id>/<step>-<sha256>.safetensors       resumable checkpoints of unfinished trainings
    in-flight/<id>/<split>-<n>-<sha256>.arrow        finished shards of unfinished images
    methods/<sha256>.py                              methods that users wrote
    probes/<random>                                  written and deleted by checks of the store
    studies/<name>/...                               study file, plan, tables, lease
    studies/<name>/index/<sha256>.parquet            copies of the study's manifests

A *key* names one object. A *prefix* ends in `/` and names all objects below it. Every name is
checked before it becomes part of a path, so that no path leaves the root or is hidden from a
listing.
"""

import re
from typing import NamedTuple

from workers.store.protocol import PROBES_PREFIX

_ARTIFACTS = "artifacts"
_IN_FLIGHT = "in-flight"
_STUDIES = "studies"
_METHODS = "methods"
_MANIFEST = "manifest.json"
_NUM_PARTS_OF_ATTEMPT_FILE = 2  # attempt and file name
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ID = re.compile(r"[0-9a-f]{16}")
_ATTEMPT = re.compile(r"[0-9a-f]{8,32}")
_CHECKPOINT = re.compile(r"([0-9]{10})-([0-9a-f]{64})\.safetensors")
_SHARD = re.compile(r"([a-z]+)-([0-9]{5})-([0-9a-f]{64})\.arrow")
_INDEX = "index"
_INDEX_PART = re.compile(r"([0-9a-f]{64})\.parquet")
_METHOD = re.compile(r"([0-9a-f]{64})\.py")
STUDY_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
"""The pattern of a study's name."""
STUDY_NAME_RULE = (
    "1 to 63 lower-case letters, digits, '.', '_' or '-', starting with a letter or digit"
)
_STUDY = re.compile(STUDY_NAME)
_RULES = {STUDY_NAME: STUDY_NAME_RULE}
"""Patterns in words, for names that users write."""
# No leading dot: `..` would leave the root, and a directory store hides dotted temporary files.
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]{0,127}")


class InvalidNameError(ValueError):
    """A name that cannot be part of a path; the message has the name and the allowed pattern."""


class ArtifactAddress(NamedTuple):
    """The kind and id of an artifact."""

    kind: str
    id: str


class ArtifactKey(NamedTuple):
    """The parts of a key below an artifact's prefix."""

    address: ArtifactAddress
    attempt: str | None
    """Attempt that uploaded the file; None for a manifest and for unknown objects."""
    name: str
    """File name; for an unknown object in deeper folders, its path below the artifact's prefix."""

    @property
    def is_manifest(self) -> bool:
        """Returns whether the key is the artifact's manifest."""
        return self.attempt is None and self.name == _MANIFEST


class InFlightKey(NamedTuple):
    """The parts of a key below `in-flight/`; none of them is checked."""

    id: str
    """Id of the artifact that is being made."""
    name: str
    """Path of the object below the id's prefix."""


class CheckpointKey(NamedTuple):
    """The parts of a checkpoint's key."""

    training_id: str
    step: int
    sha256: str
    """Digest that the content must have."""


class ShardKey(NamedTuple):
    """The parts of the key of a finished shard of images."""

    data_id: str
    split: str
    number: int
    sha256: str
    """Digest that the content must have."""


class StudyKey(NamedTuple):
    """The parts of a key in a study's folder; none of them is checked."""

    study: str
    name: str
    """Path of the object below the study's prefix."""


class Layout:
    """Functions that spell and parse the keys and prefixes of a store.

    Functions that spell a path raise `InvalidNameError` for a name that its pattern does not allow.
    """

    @staticmethod
    def artifacts(kind: str | None = None) -> str:
        """Returns the prefix of all artifacts of a kind; without a kind, of all artifacts."""
        if kind is None:
            return f"{_ARTIFACTS}/"
        return f"{_ARTIFACTS}/{_checked(kind, what='kind', pattern=_KIND)}/"

    @staticmethod
    def artifact_ranges(kind: str) -> tuple[str, ...]:
        """Returns 16 prefixes that together are those of all artifacts of a kind."""
        return tuple(Layout.artifacts(kind) + digit for digit in "0123456789abcdef")

    @staticmethod
    def manifest(kind: str, artifact_id: str) -> str:
        """Returns the key of an artifact's manifest."""
        return f"{_artifact(kind, artifact_id)}/{_MANIFEST}"

    @staticmethod
    def withdrawn(kind: str, artifact_id: str, number: int | None = None) -> str:
        """Returns the key of a withdrawn manifest; without a number, how all such keys begin."""
        name = "withdrawn-" if number is None else f"withdrawn-{number:04d}.json"
        return f"{_artifact(kind, artifact_id)}/{name}"

    @staticmethod
    def attempt(kind: str, artifact_id: str, attempt: str) -> str:
        """Returns the prefix of the files that one attempt at an artifact uploads."""
        name = _checked(attempt, what="attempt", pattern=_ATTEMPT)
        return f"{_artifact(kind, artifact_id)}/{name}/"

    @staticmethod
    def attempt_file(kind: str, artifact_id: str, *, attempt: str, name: str) -> str:
        """Returns the key of one file of an attempt."""
        file_name = _checked(name, what="file name", pattern=_FILE)
        return Layout.attempt(kind, artifact_id, attempt) + file_name

    @staticmethod
    def parse_artifact_key(key: str) -> ArtifactKey | None:
        """Parses the key of an object below an artifact's prefix; returns None for another key."""
        match key.split("/"):
            case [root, kind, shard, artifact_id, *rest] if (
                root == _ARTIFACTS
                and rest
                and shard == artifact_id[:2]
                and _KIND.fullmatch(kind)
                and _ID.fullmatch(artifact_id)
            ):
                attempt = rest[0] if len(rest) == _NUM_PARTS_OF_ATTEMPT_FILE else None
                name = rest[-1] if attempt is not None else "/".join(rest)
                return ArtifactKey(ArtifactAddress(kind, artifact_id), attempt, name)
        return None

    @staticmethod
    def parse_manifest_key(key: str) -> ArtifactAddress | None:
        """Parses the key of a manifest into its artifact's address; returns None for another."""
        parsed = Layout.parse_artifact_key(key)
        return parsed.address if parsed is not None and parsed.is_manifest else None

    @staticmethod
    def in_flight(artifact_id: str | None = None, *parts: str) -> str:
        """Returns the key of a file of an unfinished artifact.

        Without parts: the prefix of all its files. Without an id: the prefix of all such files.
        """
        if artifact_id is None:
            return f"{_IN_FLIGHT}/"
        return _below(f"{_IN_FLIGHT}/{_checked(artifact_id, what='id', pattern=_ID)}/", parts)

    @staticmethod
    def parse_in_flight_key(key: str) -> InFlightKey | None:
        """Parses the key of an object in a folder below `in-flight/`; returns None for another."""
        match key.split("/"):
            case [root, artifact_id, *rest] if root == _IN_FLIGHT and rest:
                return InFlightKey(artifact_id, "/".join(rest))
        return None

    @staticmethod
    def checkpoint(training_id: str, *, step: int, sha256: str) -> str:
        """Returns the key of a checkpoint; the key has the digest that the content must have."""
        return Layout.in_flight(training_id, f"{step:010d}-{sha256}.safetensors")

    @staticmethod
    def parse_checkpoint_key(key: str) -> CheckpointKey | None:
        """Parses the key of a checkpoint; returns None for another key."""
        parsed = Layout.parse_in_flight_key(key)
        match = parsed and _ID.fullmatch(parsed.id) and _CHECKPOINT.fullmatch(parsed.name)
        return CheckpointKey(parsed.id, int(match[1]), match[2]) if parsed and match else None

    @staticmethod
    def shard(data_id: str, *, split: str, number: int, sha256: str) -> str:
        """Returns the key of a finished shard; the key has the digest of the content."""
        return Layout.in_flight(data_id, f"{split}-{number:05d}-{sha256}.arrow")

    @staticmethod
    def parse_shard_key(key: str) -> ShardKey | None:
        """Parses the key of a finished shard; returns None for another key."""
        parsed = Layout.parse_in_flight_key(key)
        match = parsed and _ID.fullmatch(parsed.id) and _SHARD.fullmatch(parsed.name)
        return ShardKey(parsed.id, match[1], int(match[2]), match[3]) if parsed and match else None

    @staticmethod
    def methods() -> str:
        """Returns the prefix of the files of all methods that users wrote."""
        return f"{_METHODS}/"

    @staticmethod
    def method(sha256: str) -> str:
        """Returns the key of a method's file; the key has the digest of the content."""
        return _below(Layout.methods(), (f"{sha256}.py",))

    @staticmethod
    def parse_method_key(key: str) -> str | None:
        """Returns the digest in the key of a method's file; None for another key."""
        match key.split("/"):
            case [root, name] if root == _METHODS:
                found = _METHOD.fullmatch(name)
                return found[1] if found else None
        return None

    @staticmethod
    def probes() -> str:
        """Returns the prefix of the objects that checks of the store write."""
        return PROBES_PREFIX

    @staticmethod
    def studies() -> str:
        """Returns the prefix of all files of all studies."""
        return f"{_STUDIES}/"

    @staticmethod
    def study(name: str, *parts: str) -> str:
        """Returns the key of a study's file; without parts, the prefix of all its files."""
        return _below(
            f"{Layout.studies()}{_checked(name, what='study name', pattern=_STUDY)}/", parts
        )

    @staticmethod
    def index(study: str, sha256: str | None = None) -> str:
        """Returns the key of a part of a study's index; without a digest, the prefix of all."""
        part = "" if sha256 is None else f"{sha256}.parquet"
        return f"{Layout.study(study, _INDEX)}/{part}"

    @staticmethod
    def parse_index_key(key: str) -> str | None:
        """Returns the digest in the key of a part of a study's index; None for another key."""
        match key.split("/"):
            case [root, _, folder, name] if root == _STUDIES and folder == _INDEX:
                found = _INDEX_PART.fullmatch(name)
                return found[1] if found else None
        return None

    @staticmethod
    def parse_study_key(key: str) -> StudyKey | None:
        """Parses the key of an object in a folder below `studies/`; returns None for another."""
        match key.split("/"):
            case [root, study, *rest] if root == _STUDIES and rest:
                return StudyKey(study, "/".join(rest))
        return None


def _artifact(kind: str, artifact_id: str) -> str:
    checked_id = _checked(artifact_id, what="id", pattern=_ID)
    return f"{Layout.artifacts(kind)}{checked_id[:2]}/{checked_id}"


def _below(prefix: str, parts: tuple[str, ...]) -> str:
    return prefix + "/".join(_checked(p, what="file name", pattern=_FILE) for p in parts)


def _checked(name: str, *, what: str, pattern: re.Pattern[str]) -> str:
    if pattern.fullmatch(name):
        return name
    expected = _RULES.get(pattern.pattern, f"a match of {pattern.pattern}")
    raise InvalidNameError(f"{what} {name!r} is not allowed in a store; expected {expected}")

"""The layout of a store: the one place where a path under its root is spelled.

    artifacts/<kind>/<id[:2]>/<id>/manifest.json     written last; the artifact exists if it does
    artifacts/<kind>/<id[:2]>/<id>/<attempt>/<file>  the files of one attempt
    artifacts/<kind>/<id[:2]>/<id>/withdrawn-<n>.json  a broken manifest that was taken out
    in-flight/<id>/<step>-<sha256>.safetensors       resumable checkpoints of running trials
    in-flight/<id>/<split>-<n>-<sha256>.arrow        finished shards of images that are being made
    studies/<name>/...                               study file, plan, events, lease

A key names one object; a prefix ends in `/` and names all objects below it. Every name is checked
before it becomes part of a path, so nothing escapes the root or hides from a listing.
"""

import re

_MANIFEST = "manifest.json"
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ID = re.compile(r"[0-9a-f]{16}")
_ATTEMPT = re.compile(r"[0-9a-f]{8,32}")
_CHECKPOINT = re.compile(r"([0-9]{10})-([0-9a-f]{64})\.safetensors")
_SHARD = re.compile(r"([a-z]+)-([0-9]{5})-([0-9a-f]{64})\.arrow")
_STUDY = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# No leading dot: `..` would escape, and a directory store hides dotted temporary files.
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]{0,127}")


class InvalidNameError(ValueError):
    """A name cannot be part of a path in the store; the message says which and what is allowed."""


class Layout:
    """Spells keys and prefixes, relative to a store's root.

    Every method raises `InvalidNameError` for a name that does not fit its pattern.
    """

    @staticmethod
    def artifacts(kind: str) -> str:
        """Returns the prefix of all artifacts of a kind."""
        return f"artifacts/{_checked(kind, what='kind', pattern=_KIND)}/"

    @staticmethod
    def manifest(kind: str, artifact_id: str) -> str:
        """Returns the key of an artifact's manifest."""
        return f"{_artifact(kind, artifact_id)}/{_MANIFEST}"

    @staticmethod
    def withdrawn(kind: str, artifact_id: str, number: int | None = None) -> str:
        """Returns the key of a manifest that was taken out; without a number, the prefix of all."""
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
    def in_flight(artifact_id: str, *parts: str) -> str:
        """Returns the key of a file of something being made; without parts, the prefix of all."""
        return _below(f"in-flight/{_checked(artifact_id, what='id', pattern=_ID)}/", parts)

    @staticmethod
    def checkpoint(trial_id: str, *, step: int, sha256: str) -> str:
        """Returns the key of a checkpoint: it says the digest that the content must have."""
        return Layout.in_flight(trial_id, f"{step:010d}-{sha256}.safetensors")

    @staticmethod
    def parse_checkpoint_key(key: str) -> tuple[str, int, str] | None:
        """Returns trial id, step and sha256 if the key is a checkpoint's; None for another key."""
        match key.split("/"):
            case ["in-flight", trial_id, name] if _ID.fullmatch(trial_id):
                if match := _CHECKPOINT.fullmatch(name):
                    return trial_id, int(match[1]), match[2]
        return None

    @staticmethod
    def shard(data_id: str, *, split: str, number: int, sha256: str) -> str:
        """Returns the key of a finished shard: it says the digest that the content must have."""
        return Layout.in_flight(data_id, f"{split}-{number:05d}-{sha256}.arrow")

    @staticmethod
    def parse_shard_key(key: str) -> tuple[str, str, int, str] | None:
        """Returns data id, split, number and sha256 if the key is a shard's; None for another."""
        match key.split("/"):
            case ["in-flight", data_id, name] if _ID.fullmatch(data_id):
                if match := _SHARD.fullmatch(name):
                    return data_id, match[1], int(match[2]), match[3]
        return None

    @staticmethod
    def studies() -> str:
        """Returns the prefix of all files of all studies."""
        return "studies/"

    @staticmethod
    def study(name: str, *parts: str) -> str:
        """Returns the key of a study's file; without parts, the prefix of all of them."""
        return _below(
            f"{Layout.studies()}{_checked(name, what='study name', pattern=_STUDY)}/", parts
        )

    @staticmethod
    def parse_manifest_key(key: str) -> tuple[str, str] | None:
        """Returns kind and id if the key is that of a manifest, and None for any other key."""
        match key.split("/"):
            case ["artifacts", kind, shard, artifact_id, name] if (
                name == _MANIFEST
                and shard == artifact_id[:2]
                and _KIND.fullmatch(kind)
                and _ID.fullmatch(artifact_id)
            ):
                return kind, artifact_id
        return None


def _artifact(kind: str, artifact_id: str) -> str:
    checked_id = _checked(artifact_id, what="id", pattern=_ID)
    return f"{Layout.artifacts(kind)}{checked_id[:2]}/{checked_id}"


def _below(prefix: str, parts: tuple[str, ...]) -> str:
    return prefix + "/".join(_checked(p, what="file name", pattern=_FILE) for p in parts)


def _checked(name: str, *, what: str, pattern: re.Pattern[str]) -> str:
    if pattern.fullmatch(name):
        return name
    raise InvalidNameError(
        f"{what} {name!r} is not allowed in a store; it must match {pattern.pattern}"
    )

"""Sorts the objects in a store's listings into objects that studies use and garbage.

These functions neither read nor delete objects. A *unit* is a set of objects that are kept or
deleted together, such as the files of one attempt.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from workers.artifacts.layout import ArtifactAddress, Layout
from workers.store.protocol import Entry

Unit = tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """All objects below one artifact's prefix."""

    address: ArtifactAddress

    manifest: Entry | None
    """None if the artifact is not committed."""

    attempts: Mapping[str, Unit]
    """The files of each attempt, by the attempt's name."""

    others: Unit
    """Withdrawn manifests, and objects that do not belong to the layout."""

    @property
    def id(self) -> str:
        """The artifact's id."""
        return self.address.id

    @property
    def unit(self) -> Unit:
        """All objects, the manifest first."""
        files = (entry for attempt in self.attempts.values() for entry in attempt)
        return (*([self.manifest] if self.manifest else []), *files, *self.others)


def group_artifacts(entries: Iterable[Entry]) -> list[StoredArtifact]:
    """Groups a listing by artifact; leaves out objects that lie below no artifact's prefix."""
    manifests: dict[ArtifactAddress, Entry] = {}
    attempts: dict[ArtifactAddress, dict[str, list[Entry]]] = {}
    others: dict[ArtifactAddress, list[Entry]] = defaultdict(list)
    for entry in entries:
        key = Layout.parse_artifact_key(entry.key)
        if key is None:
            continue
        of_artifact = attempts.setdefault(key.address, {})
        if key.is_manifest:
            manifests[key.address] = entry
        elif key.attempt is not None:
            of_artifact.setdefault(key.attempt, []).append(entry)
        else:
            others[key.address].append(entry)
    return [
        StoredArtifact(
            address=address,
            manifest=manifests.get(address),
            attempts={attempt: tuple(files) for attempt, files in of_artifact.items()},
            others=tuple(others.get(address, ())),
        )
        for address, of_artifact in attempts.items()
    ]


def unreferenced_units(
    artifacts: Iterable[StoredArtifact], *, planned: Collection[str]
) -> list[Unit]:
    """Returns the committed artifacts that no plan names; a unit's first entry is its manifest."""
    return [each.unit for each in artifacts if each.manifest and each.id not in planned]


def orphan_units(
    artifacts: Iterable[StoredArtifact],
    *,
    planned: Collection[str],
    winners: Mapping[ArtifactAddress, str],
) -> list[Unit]:
    """Returns the files of attempts that did not become an artifact.

    Args:
        artifacts: All artifacts of the store.
        planned: The ids that plans name.
        winners: The attempt that each readable manifest names. An artifact whose manifest could not
            be read is missing here and has no orphans: any of its attempts may be the winner.
    """
    units: list[Unit] = []
    for each in artifacts:
        if each.manifest is None:
            units += [each.unit] if each.id not in planned else each.attempts.values()
        elif each.id in planned and each.address in winners:
            winner = winners[each.address]
            units += [files for attempt, files in each.attempts.items() if attempt != winner]
    return units


def in_flight_units(
    entries: Iterable[Entry], *, planned: Collection[str], committed: Collection[str]
) -> list[Unit]:
    """Returns the checkpoints and shards that no job will resume from.

    All objects of an artifact are garbage if the artifact is committed or if no plan names it. A
    plan also names the artifacts that paused trials may go on to. Of any other training, the
    checkpoints before the highest step are garbage. If the checkpoint of the highest step turns out
    to be unusable, the training starts again: it loses time only.
    """
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if (key := Layout.parse_in_flight_key(entry.key)) is not None:
            found[key.id].append(entry)
    units: list[Unit] = []
    for artifact_id, objects in found.items():
        if artifact_id in planned and artifact_id not in committed:
            units += ((entry,) for entry in _superseded(objects))
        else:
            units.append(tuple(objects))
    return units


def method_units(entries: Iterable[Entry], *, planned: Collection[str]) -> list[Unit]:
    """Returns the files of users' methods whose digests no plan names."""
    found = ((entry, Layout.parse_method_key(entry.key)) for entry in entries)
    return [(entry,) for entry, sha256 in found if sha256 is not None and sha256 not in planned]


def _superseded(entries: Collection[Entry]) -> Iterator[Entry]:
    """Yields the checkpoints before the highest step."""
    keys = {entry.key: Layout.parse_checkpoint_key(entry.key) for entry in entries}
    steps = {key: parsed.step for key, parsed in keys.items() if parsed is not None}
    newest = max(steps.values(), default=0)
    return (entry for entry in entries if steps.get(entry.key, newest) < newest)

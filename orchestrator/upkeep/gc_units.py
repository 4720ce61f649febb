"""Sorts what a store's listings show into what studies use and what nobody does.

Pure: reads nothing and deletes nothing. A *unit* is a set of objects that go together or stay
together, such as the files of one attempt.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from workers.artifacts.layout import Layout
from workers.store.protocol import Entry

Unit = tuple[Entry, ...]
Address = tuple[str, str]
"""Kind and id of an artifact."""

_NUM_PARTS = 4  # artifacts, kind, shard, id


@dataclass(frozen=True, kw_only=True)
class StoredArtifact:
    """All objects below one artifact's prefix."""

    address: Address
    """Its kind and id."""

    manifest: Entry | None
    """None if it does not exist, or not yet."""

    attempts: Mapping[str, Unit]
    """The files of each attempt, by the attempt's name."""

    others: Unit
    """Manifests that were withdrawn, and what the layout does not know."""

    @property
    def id(self) -> str:
        """Its id."""
        return self.address[1]

    @property
    def unit(self) -> Unit:
        """Everything, the manifest first."""
        files = (entry for attempt in self.attempts.values() for entry in attempt)
        return (*([self.manifest] if self.manifest else []), *files, *self.others)


def group_artifacts(entries: Iterable[Entry]) -> list[StoredArtifact]:
    """Returns the artifacts that a listing of them shows; what the layout does not know is left."""
    found: dict[Address, list[Entry]] = defaultdict(list)
    for entry in entries:
        parts = entry.key.split("/")
        address = Layout.parse_manifest_key("/".join([*parts[:_NUM_PARTS], "manifest.json"]))
        if address is not None:
            found[address].append(entry)
    return [_group_artifact(address, entries) for address, entries in found.items()]


def _group_artifact(address: Address, entries: Iterable[Entry]) -> StoredArtifact:
    manifest, others = None, []
    attempts: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        match entry.key.split("/")[_NUM_PARTS:]:
            case [_] if Layout.parse_manifest_key(entry.key):
                manifest = entry
            case [attempt, _]:
                attempts[attempt].append(entry)
            case _:
                others.append(entry)
    return StoredArtifact(
        address=address,
        manifest=manifest,
        attempts={attempt: tuple(files) for attempt, files in attempts.items()},
        others=tuple(others),
    )


def unreferenced_units(
    artifacts: Iterable[StoredArtifact], *, planned: Collection[str]
) -> list[Unit]:
    """Returns the artifacts that exist and that no plan names; the first entry is the manifest."""
    return [each.unit for each in artifacts if each.manifest and each.id not in planned]


def orphan_units(
    artifacts: Iterable[StoredArtifact],
    *,
    planned: Collection[str],
    winners: Mapping[Address, str],
) -> list[Unit]:
    """Returns attempts that never became an artifact.

    Args:
        artifacts: All of the store.
        planned: The ids that plans name.
        winners: The attempt of each manifest that could be read. Beside a manifest that is not in
            it, nothing is an orphan.
    """
    units: list[Unit] = []
    for each in artifacts:
        if each.manifest is None:
            units += [each.unit] if each.id not in planned else each.attempts.values()
        elif each.id in planned and each.address in winners:
            winner = winners[each.address]
            units += [files for attempt, files in each.attempts.items() if attempt != winner]
    return units


def checkpoint_units(
    entries: Iterable[Entry], *, planned: Collection[str], committed: Collection[str]
) -> list[Unit]:
    """Returns the checkpoints that no trial goes on from, and the shards that no images need.

    Those are all of what is committed or what no plan names, and of any other trial all but the
    checkpoint of the highest step. Should that one be unusable, time is lost and nothing else.
    """
    trials: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        match entry.key.split("/"):
            case [_, trial_id, *_, _]:
                trials[trial_id].append(entry)
    units: list[Unit] = []
    for trial_id, found in trials.items():
        if trial_id in planned and trial_id not in committed:
            units += ((entry,) for entry in _superseded(found))
        else:
            units.append(tuple(found))
    return units


def _superseded(entries: Iterable[Entry]) -> Iterator[Entry]:
    parsed = [(entry, Layout.parse_checkpoint_key(entry.key)) for entry in entries]
    steps = {entry.key: parts[1] for entry, parts in parsed if parts}
    newest = max(steps.values(), default=0)
    return (entry for entry, _ in parsed if steps.get(entry.key, newest) < newest)

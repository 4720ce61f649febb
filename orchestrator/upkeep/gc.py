"""Deletes the objects of a store that no study uses.

An artifact's manifest is deleted before its files, so that a collection that stops at any moment
leaves every artifact whole or absent. Objects of a planned artifact are kept, except the files of
attempts that were interrupted or that lost against another attempt.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain
from typing import TypeVar

from orchestrator.lease.holder import LEASE_FILE_PREFIXES
from orchestrator.record.folder import CALIBRATION_FILE, StudyDamagedError, StudyFolder
from orchestrator.record.measurements import measured_from
from orchestrator.upkeep.gc_units import (
    StoredArtifact,
    Unit,
    group_artifacts,
    in_flight_units,
    method_units,
    orphan_units,
    unreferenced_units,
)
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.layout import ArtifactAddress, InvalidNameError, Layout
from workers.artifacts.manifests import ManifestError
from workers.specs.measures import MEASURED_KINDS
from workers.specs.plan_file import PLAN_FILE
from workers.store.protocol import Entry, Store

# Other prefixes are never touched: a bucket may hold other things beside a store.
_WRITTEN_TO = (Layout.artifacts(), Layout.in_flight(), Layout.probes(), Layout.studies())
_NUM_KEYS_PER_DELETE = 1000  # one request to S3
_MAX_THREADS = 16
_Item = TypeVar("_Item")
# A study's folder may hold these files without a plan: a run can end before it has planned, and a
# study can be calibrated without ever being run.
_PLANLESS_FILES = (*LEASE_FILE_PREFIXES, CALIBRATION_FILE)


class CollectError(Exception):
    """The artifacts that studies use are not known; the message has the study and what to do."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The objects that no study uses, by reason; deleted unless it was a dry run."""

    unreferenced: tuple[Entry, ...]
    """Artifacts that no study's plan names, with everything below their prefixes."""

    orphans: tuple[Entry, ...]
    """Files of attempts that were interrupted or that lost against another attempt."""

    unfinished: tuple[Entry, ...]
    """Uploads and temporary files of writers that died."""

    checkpoints: tuple[Entry, ...]
    """Checkpoints and shards of images of artifacts that are committed or that no plan names, and
    superseded checkpoints."""

    methods: tuple[Entry, ...]
    """Files of methods that users wrote, which no plan names."""

    probes: tuple[Entry, ...]
    """Objects that interrupted checks of the store left."""

    num_young: int
    """Objects that were kept because they, or others of their unit, are too young."""

    damaged: tuple[str, ...]
    """Keys of manifests that cannot be read; everything beside them was kept."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The objects of all categories."""
        return tuple(entry for _, entries in self.categories() for entry in entries)

    @property
    def size_bytes(self) -> int:
        """The size of all objects together."""
        return sum(entry.size_bytes for entry in self.entries)

    def categories(self) -> Iterator[tuple[str, tuple[Entry, ...]]]:
        """Yields the name and the objects of each category."""
        for field in fields(self):
            if field.name not in {"num_young", "damaged"}:
                yield field.name, getattr(self, field.name)


@dataclass(frozen=True, kw_only=True)
class _Garbage:
    """The units that are old enough to be deleted."""

    unreferenced: list[Unit]
    orphans: list[Unit]
    checkpoints: list[Unit]
    methods: list[Unit]
    probes: list[Unit]
    num_young: int


def collect(
    store: Store,
    *,
    min_age_s: float,
    now_s: float,
    is_held: Callable[[str], str | None] = lambda _: None,
    dry_run: bool = True,
) -> Collected:
    """Finds the objects that no study's current plan uses; deletes them unless it is a dry run.

    Costs one listing per prefix, one request per plan and one per planned artifact with files.

    Args:
        store: A store; the plans of all its studies are read.
        min_age_s: Keeps every unit with an object modified later than `now_s - min_age_s`: a worker
            that no driver knows of may be writing it. Use at least an hour, unless nothing runs.
        now_s: The current time, in seconds since 1970 by the store's clock.
        is_held: Returns who runs a study, None if nobody does. A caller that holds the leases of
            all studies itself can leave this out.
        dry_run: Whether to delete nothing.

    Raises:
        CollectError: A study is being run, or its plan cannot be read; nothing was deleted. Or a
            study began during the collection and uses artifacts that were about to be deleted;
            only whole artifacts that no plan named were deleted before.
        StoreError: The store failed. All remaining artifacts are whole; calling again continues.
    """

    def read_planned() -> frozenset[str]:
        return _read_planned(store, is_held=is_held)

    before_s = now_s - min_age_s
    planned = read_planned()
    artifacts = group_artifacts(store.list(Layout.artifacts()))
    measured = [
        each.address for each in artifacts if each.manifest and each.address.kind in MEASURED_KINDS
    ]
    planned |= {each.id for each in measured_from(Artifacts(store), measured, planned=planned)}
    winners, damaged = _read_winners(Artifacts(store), artifacts, planned=planned)
    garbage = _find_garbage(store, artifacts, planned=planned, winners=winners, before_s=before_s)
    if not dry_run:
        _delete(store, garbage, read_planned=read_planned)
    unfinished = [
        entry
        for prefix in _WRITTEN_TO
        for entry in store.remove_unfinished(prefix, before_s=before_s, dry_run=dry_run)
    ]
    return Collected(
        unreferenced=_flat(garbage.unreferenced),
        orphans=_flat(garbage.orphans),
        unfinished=tuple(unfinished),
        checkpoints=_flat(garbage.checkpoints),
        methods=_flat(garbage.methods),
        probes=_flat(garbage.probes),
        num_young=garbage.num_young,
        damaged=damaged,
    )


def _read_planned(store: Store, *, is_held: Callable[[str], str | None]) -> frozenset[str]:
    """Returns the ids of artifacts and the digests of methods that all studies' plans name."""
    files: dict[str, set[str]] = {}
    for entry in store.list(Layout.studies()):
        if (key := Layout.parse_study_key(entry.key)) is not None:
            files.setdefault(key.study, set()).add(key.name)
    for study in files:
        if (holder := is_held(study)) is not None:
            raise CollectError(
                f"study {study!r} in {store.url} is being run: {holder}; nothing was deleted; wait "
                "until it ends or stop it, then run gc again"
            )
    planned: set[str] = set()
    for study, names in files.items():
        if not all(each.startswith(_PLANLESS_FILES) for each in names):
            planned |= _read_plan(store, study)
    return frozenset(planned)


def _read_plan(store: Store, name: str) -> set[str]:
    """Returns all ids that a study's plan names, of methods the digests."""
    command = f"mergesweep verify {name} --store {shlex.quote(store.url)}"
    try:
        plan = StudyFolder(store, name).read_plan()
    except (InvalidNameError, StudyDamagedError) as error:
        raise CollectError(
            f"the artifacts that study {name!r} uses are not known, so nothing was deleted: "
            f"{error}; `{command}` shows what is broken"
        ) from error
    if plan is None:
        raise CollectError(
            f"study {name!r} in {store.url} has no {PLAN_FILE}, so the artifacts that it uses are "
            f"not known and nothing was deleted; run the study again, which writes {PLAN_FILE}, or "
            f"see `{command}`"
        )
    ids = plan.artifact_ids().values()
    return set().union(plan.method_files(), plan.checkpoint_ids(), *ids)


def _read_winners(
    artifacts: Artifacts, stored: Iterable[StoredArtifact], *, planned: frozenset[str]
) -> tuple[dict[ArtifactAddress, str], tuple[str, ...]]:
    """Returns the attempt that each manifest names, and the keys of unreadable manifests.

    Manifests without any attempt's files beside them are not read. Beside a single attempt the
    manifest is read too: the artifact may have no files of its own, and the attempt may have lost.
    """

    def read(address: ArtifactAddress) -> str | None:
        try:
            manifest = artifacts.find(*address)
        except ManifestError:
            return None
        return None if manifest is None else manifest.attempt

    contested = [
        each.address for each in stored if each.manifest and each.attempts and each.id in planned
    ]
    with ThreadPoolExecutor(_MAX_THREADS) as threads:
        winners = dict(zip(contested, threads.map(read, contested), strict=True))
    damaged = (Layout.manifest(*address) for address, winner in winners.items() if winner is None)
    return {each: winner for each, winner in winners.items() if winner}, tuple(damaged)


def _find_garbage(
    store: Store,
    artifacts: Sequence[StoredArtifact],
    *,
    planned: frozenset[str],
    winners: dict[ArtifactAddress, str],
    before_s: float,
) -> _Garbage:
    """Returns the units that no study uses and whose objects were all modified before a time."""
    committed = {each.id for each in artifacts if each.manifest}
    in_flight = store.list(Layout.in_flight())
    units: list[list[Unit]] = [
        unreferenced_units(artifacts, planned=planned),
        orphan_units(artifacts, planned=planned, winners=winners),
        in_flight_units(in_flight, planned=planned, committed=committed),
        method_units(store.list(Layout.methods()), planned=planned),
        [(entry,) for entry in store.list(Layout.probes())],
    ]
    old = [
        [unit for unit in each if all(entry.modified_at_s < before_s for entry in unit)]
        for each in units
    ]
    num_all, num_old = (len(_flat(chain.from_iterable(each))) for each in (units, old))
    unreferenced, orphans, checkpoints, methods, probes = old
    return _Garbage(
        unreferenced=unreferenced,
        orphans=orphans,
        checkpoints=checkpoints,
        methods=methods,
        probes=probes,
        num_young=num_all - num_old,
    )


def _delete(store: Store, garbage: _Garbage, *, read_planned: Callable[[], frozenset[str]]) -> None:
    for units in _batches(garbage.unreferenced):
        # A study that began since the listing relies on the artifacts that it found.
        _refuse_planned(units, planned=read_planned())
        store.delete([unit[0].key for unit in units])
    methods = method_units(_flat(garbage.methods), planned=read_planned())
    files = [unit[1:] for unit in garbage.unreferenced]
    orphans = _still_orphans(Artifacts(store), garbage.orphans)
    others = (*garbage.checkpoints, *methods, *garbage.probes)
    for entries in _batches(_flat([*files, *orphans, *others])):
        store.delete([entry.key for entry in entries])


def _refuse_planned(units: Iterable[Unit], *, planned: frozenset[str]) -> None:
    to_delete = {_address(unit).id for unit in units}
    if used := sorted(to_delete & planned):
        raise CollectError(
            f"a study that began during the collection uses {len(used)} artifacts that no study "
            f"used before: {', '.join(used[:5])}; they are kept; run gc again"
        )


def _still_orphans(artifacts: Artifacts, units: Iterable[Unit]) -> list[Unit]:
    """Returns the units without attempts that a late worker has committed since the listing."""

    def is_orphan(unit: Unit) -> bool:
        try:
            manifest = artifacts.find(*_address(unit))
        except ManifestError:
            return False
        keys = (Layout.parse_artifact_key(entry.key) for entry in unit)
        attempts = {key.attempt for key in keys if key is not None}
        return manifest is None or manifest.attempt not in attempts

    units = list(units)
    with ThreadPoolExecutor(_MAX_THREADS) as threads:
        return [
            unit
            for unit, is_one in zip(units, threads.map(is_orphan, units), strict=True)
            if is_one
        ]


def _address(unit: Unit) -> ArtifactAddress:
    key = Layout.parse_artifact_key(unit[0].key)
    assert key is not None, "the units of artifacts are grouped by their parsed keys"
    return key.address


def _flat(units: Iterable[Unit]) -> Unit:
    return tuple(entry for unit in units for entry in unit)


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _NUM_KEYS_PER_DELETE):
        yield items[start : start + _NUM_KEYS_PER_DELETE]

"""Deletes what no study of a store uses.

An artifact goes manifest first, so that a collection that is stopped anywhere leaves it whole or
not at all. What a plan names is never touched, the losers and torn attempts beside it excepted.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain
from typing import TypeVar

from orchestrator.record.folder import CALIBRATION_FILE, PLAN_FILE, StudyDamagedError, StudyFolder
from orchestrator.upkeep.gc_units import (
    Address,
    StoredArtifact,
    Unit,
    checkpoint_units,
    group_artifacts,
    orphan_units,
    unreferenced_units,
)
from orchestrator.upkeep.verify import planned_ids
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.layout import InvalidNameError, Layout
from workers.artifacts.manifests import ManifestError
from workers.store.protocol import Entry, Store

_ARTIFACTS, _IN_FLIGHT, _PROBES = "artifacts/", "in-flight/", "probes/"
# Only what the layout knows: a bucket may hold other things beside a store.
_WRITTEN_TO = (_ARTIFACTS, _IN_FLIGHT, _PROBES, Layout.studies())
_NUM_KEYS_PER_DELETE = 1000  # one request to S3
_MAX_THREADS = 16
_Item = TypeVar("_Item")
# A folder may hold nothing else: that of a run which ended before it had a plan, or of a study that
# was only calibrated.
_PLANLESS_FILES = ("lease-", "beat-", CALIBRATION_FILE)


class CollectError(Exception):
    """It is not certain what studies use; the message names the study and what to do."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What nobody uses, by why; deleted unless it was a dry run."""

    unreferenced: tuple[Entry, ...]
    """Artifacts that no study's plan names, with everything below them."""

    orphans: tuple[Entry, ...]
    """Files of attempts that were torn or lost."""

    unfinished: tuple[Entry, ...]
    """Uploads and temporary files of writers that died."""

    checkpoints: tuple[Entry, ...]
    """Checkpoints of trials, and shards of images, that are committed or planned by nobody; and
    superseded checkpoints."""

    probes: tuple[Entry, ...]
    """What checks of the store left behind."""

    num_young: int
    """Objects that were kept because they, or some that belong to them, are too young."""

    damaged: tuple[str, ...]
    """Keys of manifests that cannot be read: all that is beside them was kept."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All of it."""
        return tuple(entry for _, entries in self.categories() for entry in entries)

    @property
    def size_bytes(self) -> int:
        """How much space it takes."""
        return sum(entry.size_bytes for entry in self.entries)

    def categories(self) -> Iterator[tuple[str, tuple[Entry, ...]]]:
        """Yields each category's name with what belongs to it."""
        for field in fields(self):
            if field.name not in {"num_young", "damaged"}:
                yield field.name, getattr(self, field.name)


@dataclass(frozen=True, kw_only=True)
class _Garbage:
    """Units that are old enough to go."""

    unreferenced: list[Unit]
    orphans: list[Unit]
    checkpoints: list[Unit]
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
    """Finds, and unless it is a dry run deletes, what no study's current plan uses.

    A listing of each of artifacts, checkpoints, probes and studies, a request a plan, and one for
    each planned artifact that has files.

    Args:
        store: Whose studies all count.
        min_age_s: What was written to later than this before `now_s` is kept, with all that
            belongs to it: a worker that no driver knows of may be at it. At least an hour, unless
            nothing runs.
        now_s: The time, in seconds since 1970 by the store's clock.
        is_held: Says who runs a study, None for nobody; a caller that holds all studies itself
            need not ask.
        dry_run: Delete nothing.

    Raises:
        CollectError: A study is being run, or its plan cannot be read; nothing was deleted.
            Or a study began meanwhile that uses what was to go; what was deleted until then was
            whole artifacts that no plan named.
        StoreError: The store failed; what is left is whole, and the same call goes on.
    """

    def read_planned() -> frozenset[str]:
        return _read_planned(store, is_held=is_held)

    before_s = now_s - min_age_s
    planned = read_planned()
    artifacts = group_artifacts(store.list(_ARTIFACTS))
    winners, damaged = _read_winners(Artifacts(store), artifacts, planned=planned)
    garbage = _sort(store, artifacts, planned=planned, winners=winners, before_s=before_s)
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
        probes=_flat(garbage.probes),
        num_young=garbage.num_young,
        damaged=damaged,
    )


def _read_planned(store: Store, *, is_held: Callable[[str], str | None]) -> frozenset[str]:
    """Returns the ids of all artifacts that the plans of all studies name."""
    files: dict[str, set[str]] = {}
    for entry in store.list(Layout.studies()):
        _, name, *rest = entry.key.split("/")
        if rest:
            files.setdefault(name, set()).add(rest[0])
    for name in files:
        if (holder := is_held(name)) is not None:
            raise CollectError(
                f"study {name!r} in {store.url} is being run: {holder}; nothing was deleted; wait "
                "for it or stop it, then collect again"
            )
    planned: set[str] = set()
    for name, names in files.items():
        if not all(each.startswith(_PLANLESS_FILES) for each in names):
            planned |= _read_plan(store, name)
    return frozenset(planned)


def _read_plan(store: Store, name: str) -> set[str]:
    command = f"mergesweep verify {name} --store {shlex.quote(store.url)}"
    try:
        plan = StudyFolder(store, name).read_plan()
        ids = planned_ids(plan) if plan is not None else None
    except (AttributeError, InvalidNameError, LookupError, TypeError) as error:
        what = str(error) if isinstance(error, StudyDamagedError) else f"{PLAN_FILE}: {error!r}"
        raise CollectError(
            f"it is not known what study {name!r} uses, so that nothing was deleted: {what}; "
            f"`{command}` says what is broken"
        ) from error
    if ids is None:
        raise CollectError(
            f"study {name!r} in {store.url} has no {PLAN_FILE}, so that it is not known what it "
            f"uses and nothing was deleted; run it again, which writes one, or see `{command}`"
        )
    return set().union(*ids.values())


def _read_winners(
    artifacts: Artifacts, stored: Iterable[StoredArtifact], *, planned: frozenset[str]
) -> tuple[dict[Address, str], tuple[str, ...]]:
    """Returns the attempts that won, and the keys of manifests that do not tell.

    A manifest is read even where there are the files of one attempt alone: an artifact may have no
    files, and these be a loser's.
    """

    def read(address: Address) -> str | None:
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


def _sort(
    store: Store,
    artifacts: Sequence[StoredArtifact],
    *,
    planned: frozenset[str],
    winners: dict[Address, str],
    before_s: float,
) -> _Garbage:
    committed = {each.id for each in artifacts if each.manifest}
    units: list[list[Unit]] = [
        unreferenced_units(artifacts, planned=planned),
        orphan_units(artifacts, planned=planned, winners=winners),
        checkpoint_units(store.list(_IN_FLIGHT), planned=planned, committed=committed),
        [(entry,) for entry in store.list(_PROBES)],
    ]
    old = [
        [unit for unit in each if all(entry.modified_at_s < before_s for entry in unit)]
        for each in units
    ]
    num_all, num_old = (len(_flat(chain.from_iterable(each))) for each in (units, old))
    unreferenced, orphans, checkpoints, probes = old
    return _Garbage(
        unreferenced=unreferenced,
        orphans=orphans,
        checkpoints=checkpoints,
        probes=probes,
        num_young=num_all - num_old,
    )


def _delete(store: Store, garbage: _Garbage, *, read_planned: Callable[[], frozenset[str]]) -> None:
    for units in _batches(garbage.unreferenced):
        # A study may have begun since: its run counts on what it saw.
        _refuse_planned(units, planned=read_planned())
        store.delete([unit[0].key for unit in units])
    read_planned()
    files = [unit[1:] for unit in garbage.unreferenced]
    orphans = _still_orphans(Artifacts(store), garbage.orphans)
    for entries in _batches(_flat([*files, *orphans, *garbage.checkpoints, *garbage.probes])):
        store.delete([entry.key for entry in entries])


def _refuse_planned(units: Iterable[Unit], *, planned: frozenset[str]) -> None:
    doomed = {_address(unit)[1] for unit in units}
    if new := sorted(doomed & planned):
        raise CollectError(
            f"a study began meanwhile that uses {', '.join(new[:5])} ({len(new)} artifacts), which "
            "no study used before; they are kept; collect again"
        )


def _still_orphans(artifacts: Artifacts, units: Iterable[Unit]) -> list[Unit]:
    """Returns the units without what was committed since they were listed, by a late worker."""

    def is_orphan(unit: Unit) -> bool:
        try:
            manifest = artifacts.find(*_address(unit))
        except ManifestError:
            return False
        return manifest is None or all(f"/{manifest.attempt}/" not in entry.key for entry in unit)

    units = list(units)
    with ThreadPoolExecutor(_MAX_THREADS) as threads:
        return [
            unit
            for unit, is_one in zip(units, threads.map(is_orphan, units), strict=True)
            if is_one
        ]


def _address(unit: Unit) -> Address:
    _, kind, _, artifact_id, *_ = unit[0].key.split("/")
    return kind, artifact_id


def _flat(units: Iterable[Unit]) -> Unit:
    return tuple(entry for unit in units for entry in unit)


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _NUM_KEYS_PER_DELETE):
        yield items[start : start + _NUM_KEYS_PER_DELETE]

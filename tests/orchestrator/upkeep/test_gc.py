import os
import random
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.upkeep.gc import Collected, CollectError, collect
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.checksummed_json import dump_checksummed
from workers.artifacts.layout import Layout
from workers.artifacts.provenance import Provenance
from workers.specs.plan_file import GroupSampling, PlanFile, PlannedData, PlannedTrial
from workers.store.local import LocalStore
from workers.store.protocol import Store, StoreUnavailableError

HOUR_S = 3600.0
KINDS = {"base": 2, "data": 3, "expert": 9, "merge": 6}
STUDIES = ("one", "two", "three")


@dataclass(kw_only=True)
class World:
    """A store with several studies, and the keys that a collection must keep or delete."""

    store: Store
    planned: set[str] = field(default_factory=set)
    committed: dict[str, str] = field(default_factory=dict)
    """Id to kind of the artifacts that are whole."""
    kept: set[str] = field(default_factory=set)
    garbage: set[str] = field(default_factory=set)

    def put(self, key: str, *, is_kept: bool) -> None:
        """Writes an object of 8 bytes."""
        self.store.put(key, b"8 bytes!")
        (self.kept if is_kept else self.garbage).add(key)

    def keys(self) -> set[str]:
        """Returns the keys of all objects in the store."""
        return {entry.key for entry in self.store.list("")}

    def check(self) -> None:
        """Checks that every existing artifact is whole and every planned one exists."""
        artifacts = Artifacts(self.store)
        for artifact_id, kind in self.committed.items():
            checked = artifacts.check(kind, artifact_id)
            assert checked is None or checked.problem is None
            assert checked is not None or artifact_id not in self.planned


def new_id(chance: random.Random) -> str:
    return f"{chance.getrandbits(64):016x}"


def plan(name: str, ids: Iterable[tuple[str, str]]) -> bytes:
    """Returns the plan file of a study with artifacts of the given kinds and ids."""
    of_kind = {kind: [each for its, each in ids if its == kind] for kind in KINDS}
    file = PlanFile(
        study=name,
        sampling=GroupSampling(tasks=(), sizes=(), count=1, seed=0),
        groups={},
        bases={of_kind["base"][0]: {}},
        heads={},
        data={f"task_{each}": PlannedData(id=each, spec={}) for each in of_kind["data"]},
        sources={},
        trials=tuple(
            PlannedTrial(id=each, snapshots={10: each}, longest={}) for each in of_kind["expert"]
        ),
        merges={each: {} for each in of_kind["merge"]},
        cells=(),
    )
    return dump_checksummed(file.to_json())


def commit(store: Store, kind: str, artifact_id: str, *, scratch: Path) -> set[str]:
    """Commits an artifact (a merge without files) and returns its keys."""
    path = scratch / "weights"
    path.write_bytes(artifact_id.encode())
    names = [] if kind == "merge" else ["a.arrow", "weights"]
    manifest = Artifacts(store).commit(
        Provenance(kind=kind, id=artifact_id, version=1, spec={}, inputs={}),
        files=dict.fromkeys(names, path),
        metrics={},
        seconds={},
    )
    files = {
        Layout.attempt_file(kind, artifact_id, attempt=manifest.attempt, name=name)
        for name in names
    }
    return {Layout.manifest(kind, artifact_id), *files}


def build(store: Store, *, seed: int, scratch: Path) -> World:
    """Fills a store at random: shared, torn, lost, withdrawn, unreferenced and foreign objects."""
    chance = random.Random(seed)
    world = World(store=store)
    addresses = [(kind, new_id(chance)) for kind, number in KINDS.items() for _ in range(number)]
    for name in STUDIES:
        # A study has one base; no study uses the second.
        chosen = [addresses[0], *(each for each in addresses[2:] if chance.random() < 0.35)]
        world.planned |= {artifact_id for _, artifact_id in chosen}
        store.put(Layout.study(name, "plan.json"), plan(name, chosen))
        # A replaced plan keeps no artifact.
        store.put(Layout.study(name, "plan.json.0001"), plan(name, addresses))
        world.kept |= {Layout.study(name, each) for each in ("plan.json", "plan.json.0001")}
    for kind, artifact_id in addresses:
        add_artifact(world, kind, artifact_id, chance=chance, scratch=scratch)
        if kind == "data":
            add_shards(world, artifact_id, chance=chance)
        else:
            add_checkpoints(world, artifact_id, chance=chance)
    world.put(f"probes/{new_id(chance)}", is_kept=False)
    for key in ("artifacts/of-another-tool.txt", "elsewhere/probes/x", "in-flight/readme"):
        world.put(key, is_kept=True)
    return world


def add_artifact(
    world: World, kind: str, artifact_id: str, *, chance: random.Random, scratch: Path
) -> None:
    """Commits an artifact or not, and adds torn, lost and withdrawn attempts."""
    is_planned = artifact_id in world.planned
    if chance.random() < 0.4:
        withdrawn = commit(world.store, kind, artifact_id, scratch=scratch)
        copy = Artifacts(world.store).withdraw(kind, artifact_id)
        assert copy is not None
        world.garbage |= withdrawn - {Layout.manifest(kind, artifact_id)}
        (world.kept if is_planned else world.garbage).add(copy)
    if chance.random() < 0.6:
        keys = commit(world.store, kind, artifact_id, scratch=scratch)
        world.committed[artifact_id] = kind
        (world.kept if is_planned else world.garbage).update(keys)
    for _ in range(chance.choice([0, 0, 1, 2])):
        attempt = new_id(chance)
        for name in ["a.arrow", "weights"][: chance.choice([1, 2])]:
            key = Layout.attempt_file(kind, artifact_id, attempt=attempt, name=name)
            world.put(key, is_kept=False)


def add_checkpoints(world: World, artifact_id: str, *, chance: random.Random) -> None:
    """Writes checkpoints; only the last counts, and only if its trial is unfinished."""
    is_used = artifact_id in world.planned and artifact_id not in world.committed
    steps = chance.choice([[], [], [20], [5, 30, 100]])
    for step in steps:
        key = Layout.checkpoint(artifact_id, step=step, sha256=f"{chance.getrandbits(256):064x}")
        world.put(key, is_kept=is_used and step == steps[-1])


def add_shards(world: World, artifact_id: str, *, chance: random.Random) -> None:
    """Writes shards; all of them count if the images are unfinished."""
    is_used = artifact_id in world.planned and artifact_id not in world.committed
    for split, number in chance.choice([[], [("train", 0)], [("train", 0), ("train", 1)]]):
        sha256 = f"{chance.getrandbits(256):064x}"
        key = Layout.shard(artifact_id, split=split, number=number, sha256=sha256)
        world.put(key, is_kept=is_used)


def collect_old(store: Store, *, dry_run: bool = False) -> Collected:
    """Collects garbage as if two hours had passed."""
    now_s = time.time() + 2 * HOUR_S
    return collect(store, min_age_s=HOUR_S, now_s=now_s, dry_run=dry_run)


@pytest.mark.parametrize("seed", range(4))
def test_collection_deletes_all_garbage_and_nothing_else(
    store: Store, seed: int, tmp_path: Path
) -> None:
    """In a store filled at random, planned artifacts stay whole and all garbage is deleted."""
    world = build(store, seed=seed, scratch=tmp_path)
    assert world.keys() == world.kept | world.garbage
    promised = collect_old(store, dry_run=True)
    assert world.keys() == world.kept | world.garbage
    collected = collect_old(store)
    assert collected == promised
    assert {entry.key for entry in collected.entries} == world.garbage
    assert world.keys() == world.kept
    world.check()
    assert collect_old(store).entries == ()


def test_young_objects_are_kept(store: Store, tmp_path: Path) -> None:
    """Objects written within the last hour may belong to work in progress."""
    world = build(store, seed=0, scratch=tmp_path)
    collected = collect(store, min_age_s=HOUR_S, now_s=time.time(), dry_run=False)
    assert collected.entries == ()
    assert collected.num_young == len(world.garbage)
    assert world.keys() == world.kept | world.garbage


def test_killed_collection_leaves_whole_artifacts(tmp_path: Path) -> None:
    """Every remaining manifest has its files, and the next collection deletes the rest."""

    class DyingStore(LocalStore):
        def delete(self, keys: Iterable[str]) -> None:
            nonlocal num_left
            for key in keys:
                if num_left == 0:
                    raise StoreUnavailableError("killed")
                num_left -= 1
                super().delete([key])

    world = build(LocalStore(tmp_path / "store"), seed=1, scratch=tmp_path)
    for num_deleted in range(0, len(world.garbage), 3):
        num_left = num_deleted
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "store", copy)
        world.store = LocalStore(copy)
        with pytest.raises(StoreUnavailableError):
            collect_old(DyingStore(copy))
        assert len(world.keys()) == len(world.kept | world.garbage) - num_deleted
        world.check()
        collect_old(world.store)
        assert world.keys() == world.kept
        shutil.rmtree(copy)


def test_artifact_is_as_young_as_its_youngest_object(tmp_path: Path) -> None:
    """An unplanned artifact is kept whole if one of its objects is young."""
    store = LocalStore(tmp_path / "store")
    commit(store, "expert", "a" * 16, scratch=tmp_path)
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (time.time() - 2 * HOUR_S,) * 2)
    store.put(Layout.attempt_file("expert", "a" * 16, attempt="b" * 16, name="weights"), b"")
    before = set(store.list(""))
    collected = collect(store, min_age_s=HOUR_S, now_s=time.time(), dry_run=False)
    assert (collected.entries, collected.num_young) == ((), 4)
    assert set(store.list("")) == before


def test_interrupted_writes_are_collected(tmp_path: Path) -> None:
    """A killed writer's temporary file is deleted; one outside the store's own folders stays."""
    store = LocalStore(tmp_path)
    left = tmp_path / "artifacts" / "expert" / f".{'0' * 16}.tmp"
    foreign = tmp_path / "photos" / f".{'0' * 16}.tmp"
    for path in (left, foreign):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
    assert collect_old(store, dry_run=True).size_bytes == 5
    assert left.exists()
    collected = collect_old(store)
    assert [entry.key for entry in collected.unfinished] == [f"artifacts/expert/.{'0' * 16}.tmp"]
    assert not left.exists()
    assert foreign.exists()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Returns a filled store in a directory."""
    return build(LocalStore(tmp_path / "store"), seed=2, scratch=tmp_path)


def flip(content: bytes) -> bytes:
    """Changes one digit of an id in a plan."""
    at = content.index(b'"snapshots"') + 24
    return content[:at] + (b"1" if content[at : at + 1] == b"0" else b"0") + content[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip, "mergesweep verify two --store"),
        (lambda content: content[: len(content) // 2], "mergesweep verify two --store"),
        (lambda _: b"", "mergesweep verify two --store"),
        (lambda content: content.replace(b'"two"', b'"one"'), "mergesweep verify two --store"),
        (
            lambda _: dump_checksummed({"study": "two", "base": 7}),
            "study 'two' uses are not known",
        ),
        (lambda _: dump_checksummed({"study": "two"}), "study 'two' uses are not known"),
    ],
)
def test_damaged_plan_stops_the_collection(
    world: World, damage: Callable[[bytes], bytes], problem: str
) -> None:
    """Nothing is deleted if a plan cannot be read, and the message names the study."""
    key = Layout.study("two", "plan.json")
    world.store.put(key, damage(world.store.get(key)))
    with pytest.raises(CollectError, match=problem):
        collect_old(world.store)
    assert world.keys() == world.kept | world.garbage


def test_missing_plan_stops_the_collection(world: World) -> None:
    """A study without a plan may use any artifact."""
    world.store.delete([Layout.study("two", "plan.json")])
    with pytest.raises(CollectError, match=r"study 'two' in .* has no plan.json"):
        collect_old(world.store)
    assert len(world.keys()) == len(world.kept | world.garbage) - 1


def test_folder_of_leases_alone_is_no_study(world: World) -> None:
    """A run that ended before it had a plan does not block later collections."""
    for name in ("lease-00000001.json", "beat-00000001.json"):
        world.put(Layout.study("never-planned", name), is_kept=True)
    collect_old(world.store)
    assert world.keys() == world.kept


def test_study_that_is_being_run_stops_the_collection(world: World) -> None:
    """The message names the study and the holder of its lease."""
    holders = {"three": "user@host, pid 7"}
    with pytest.raises(CollectError, match=r"study 'three' in .* is being run: user@host, pid 7"):
        collect(world.store, min_age_s=0, now_s=2e9, is_held=holders.get, dry_run=False)
    assert world.keys() == world.kept | world.garbage


def at_second_look(act: Callable[[], object]) -> Callable[[str], None]:
    """Returns an `is_held` that acts when the plans are read for the second time."""
    seen: list[str] = []

    def is_held(name: str) -> None:
        if seen.count(name) == 1 and len(seen) == len(STUDIES):
            act()
        seen.append(name)

    return is_held


def test_artifact_that_a_plan_begins_to_use_is_kept(world: World) -> None:
    """Plans are read again before a deletion; a new use of an artifact stops the collection."""
    unplanned = [(kind, each) for each, kind in world.committed.items()]
    unplanned = [(kind, each) for kind, each in unplanned if each not in world.planned]
    changed = plan("one", [("base", "b" * 16), *unplanned])
    is_held = at_second_look(lambda: world.store.put(Layout.study("one", "plan.json"), changed))
    now_s = time.time() + 2 * HOUR_S
    with pytest.raises(CollectError, match="began during the collection"):
        collect(world.store, min_age_s=HOUR_S, now_s=now_s, is_held=is_held, dry_run=False)
    assert world.keys() == world.kept | world.garbage


def test_measurements_of_planned_artifacts_are_kept(world: World) -> None:
    """No plan names them; one whose base or expert no study uses is garbage."""
    used, unused = sorted(world.planned)[:2], new_id(random.Random(9))
    for number, inputs in enumerate(([used[0]], used, [used[0], unused])):
        Artifacts(world.store).commit(
            Provenance(
                kind="reach",
                id=f"{number:016x}",
                version=1,
                spec={},
                inputs=dict.fromkeys(inputs, "digest"),
            ),
            files={},
            metrics={},
            seconds={},
        )
    collect_old(world.store)
    kept = Artifacts(world.store).committed_ids("reach")
    assert kept == {f"{0:016x}", f"{1:016x}"}


def test_attempt_that_wins_meanwhile_is_kept(tmp_path: Path) -> None:
    """An unknown worker commits between the listing and the deletion."""
    store, ids = LocalStore(tmp_path / "store"), [("base", "b" * 16), ("expert", "a" * 16)]
    for name in STUDIES:
        store.put(Layout.study(name, "plan.json"), plan(name, ids))
    keys = commit(store, "expert", "a" * 16, scratch=tmp_path)
    manifest_key = Layout.manifest("expert", "a" * 16)
    manifest = store.get(manifest_key)
    store.delete([manifest_key])
    is_held = at_second_look(lambda: store.put(manifest_key, manifest))
    collect(store, min_age_s=0, now_s=time.time() + 60, is_held=is_held, dry_run=False)
    assert keys <= {entry.key for entry in store.list("")}


@pytest.mark.parametrize("content", [b"{}", b"", b"\xff\x00"])
def test_damaged_manifest_keeps_the_files_beside_it(world: World, content: bytes) -> None:
    """Any of the attempts may be the one that the manifest named."""
    (artifact_id, kind), *_ = (
        each for each in world.committed.items() if each[0] in world.planned and each[1] != "merge"
    )
    key = Layout.manifest(kind, artifact_id)
    world.store.put(key, content)
    prefix = key.removesuffix("manifest.json")
    beside = {entry.key for entry in world.store.list(prefix)}
    collected = collect_old(world.store)
    assert collected.damaged == (key,)
    assert beside <= world.keys()
    assert world.keys() == world.kept | beside


def test_reads_one_listing_per_prefix_and_no_manifest_without_files(tmp_path: Path) -> None:
    """A thousand merges cost no request: only plans and contested manifests are read."""
    store = LocalStore(tmp_path / "store")
    chance = random.Random(0)
    merges = [("merge", new_id(chance)) for _ in range(50)]
    store.put(Layout.study("one", "plan.json"), plan("one", [("base", "b" * 16), *merges]))
    for kind, artifact_id in merges:
        commit(store, kind, artifact_id, scratch=tmp_path)
    before = store.num_requests
    collect_old(store, dry_run=True)
    # Five listings, one plan, and four searches for interrupted writes.
    assert store.num_requests - before == 10

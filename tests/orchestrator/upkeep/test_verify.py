import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.record.folder import StudyFolder, StudyNotFoundError
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.write_outputs import write_outputs
from orchestrator.study.reader import parse_study
from orchestrator.upkeep.verify import Fault, verify
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.checksummed_json import dump_checksummed, parse_checksummed
from workers.artifacts.layout import InvalidNameError, Layout
from workers.artifacts.manifests import Manifest
from workers.artifacts.provenance import Provenance
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.plan_file import PLAN_FILE
from workers.store.opening import open_store
from workers.store.protocol import Store, StoreUnavailableError

NUM_MUTATIONS = 200
REMADE_EVERY = 8
STUDIES = ("small", "other")
OWN_FILES = {
    "experts.parquet",
    "outputs.json",
    "plan.json",
    "report.html",
    "results.parquet",
    "study.yaml",
}
FILES = {
    "base": ("backbone.safetensors",),
    "data": ("test-00000.arrow", "train-00000.arrow", "train-00001.arrow"),
    "expert": ("expert.safetensors",),
    "merge": (),
}
Texts = Mapping[str, str]


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips thousands of disk syncs, which would wait for all other writes of the machine."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def texts(study_fields: Callable[..., dict[str, Any]]) -> Texts:
    """Returns two study files that share images and nothing else."""
    fields = [
        study_fields(name=name, seed=seed) for name, seed in zip(STUDIES, (0, 7), strict=True)
    ]
    return {each["name"]: yaml.safe_dump(each) for each in fields}


@pytest.fixture
def finish(
    texts: Texts,
    tmp_path: Path,
    expert_manifest: Callable[..., Manifest],
    merge_manifest: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., OpenedStudy]:
    """Finishes a study without training: commits missing artifacts, writes the outputs."""
    # Drawing the figures takes half a second per page, and the tests make hundreds of pages.
    monkeypatch.setattr(
        "orchestrator.run.write_outputs.report_page",
        lambda opened, *, results: f"{opened.plan.study.name}: {results.merges.num_rows} rows",
    )

    def open_(name: str, url: str) -> OpenedStudy:
        return open_study(parse_study(texts[name], source=name, store=url), text=texts[name])

    def run(name: str, *, url: str) -> OpenedStudy:
        opened = open_(name, url)
        plan = opened.plan
        opened.folder.write_plan(plan, study_text=opened.text)
        for made in (plan.bases.jobs[0].spec, *plan.datasets):
            if made.id not in opened.prepared:
                commit(opened.artifacts, made, metrics={}, scratch=tmp_path)
        for trial in opened.ledger.committed().missing_trainings:
            for expert in trial.outputs:
                metrics = expert_manifest(expert).metrics
                commit(opened.artifacts, expert, metrics=metrics, scratch=tmp_path)
        for merge in plan.merges.values():
            if merge.id not in opened.ledger.committed().merges:
                metrics = merge_manifest(merge).metrics
                commit(opened.artifacts, merge, metrics=metrics, scratch=tmp_path)
        ended = open_(name, url)
        assert ended.is_finished()
        write_outputs(ended, results=StudyResults.of(ended.ledger.committed()))
        return ended

    return run


def commit(
    artifacts: Artifacts,
    spec: BaseSpec | DataSpec | ExpertSpec | MergeSpec,
    *,
    metrics: Mapping[str, Any],
    scratch: Path,
) -> None:
    """Commits an artifact whose files have content of their own."""
    kind = type(spec).__name__.removesuffix("Spec").lower()
    files = {name: scratch / name for name in FILES[kind]}
    for name, path in files.items():
        path.write_bytes(hashlib.sha512(f"{spec.id} {name}".encode()).digest() * 8)
    artifacts.commit(
        Provenance.of(spec, kind=kind, inputs={}),
        files=files,
        metrics=metrics,
        seconds={"trial": 1.0},
    )


@pytest.fixture
def finished(finish: Callable[..., OpenedStudy], tmp_path: Path) -> Store:
    """Returns a store in a directory with two finished studies."""
    url = str(tmp_path / "finished")
    for name in STUDIES:
        finish(name, url=url)
    return open_store(url)


def keys(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list("")}


def kind_of(key: str) -> str:
    """Returns the group of a file: files of one name and artifact kind can be swapped."""
    top, kind, *_, name = key.split("/")
    return f"{kind} {name}" if top == "artifacts" else name


def artifact_of(key: str) -> str:
    """Returns kind and id of the artifact that owns a file, or the name of a study's file."""
    top, kind, _, *rest = key.split("/")
    return f"{kind} {rest[0]}" if top == "artifacts" else f"file {key.rpartition('/')[2]}"


def truncate(content: bytes, *, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flip(content: bytes, *, chance: random.Random) -> bytes:
    flipped = bytearray(content)
    flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def halve(content: bytes, *, chance: random.Random) -> bytes:
    del chance
    return content[: len(content) // 2]


CHANGES = {"truncate": truncate, "flip": flip, "half JSON": halve}
MUTATIONS = (*CHANGES, "delete", "swap")


def mutate(store: Store, *, chance: random.Random) -> tuple[str, list[str]]:
    """Breaks one file or swaps two; returns the change and the files."""
    found = [entry.key for entry in store.list("")]
    kind = chance.choice(sorted({kind_of(key) for key in found}))
    first, *others = chance.sample(same := [k for k in found if kind_of(k) == kind], len(same))
    how = chance.choice(MUTATIONS)
    content = store.get(first)
    if how == "delete":
        store.delete([first])
        return how, [first]
    if how == "swap" and others and store.get(others[0]) != content:
        store.put(first, store.get(others[0]))
        store.put(others[0], content)
        return how, [first, others[0]]
    if how == "swap" or (how == "half JSON" and not first.endswith(".json")):
        return mutate(store, chance=chance)
    store.put(first, CHANGES[how](content, chance=chance))
    return how, [first]


def all_faults(store: Store, *, withdraw: bool) -> list[Fault]:
    return [each for name in STUDIES for each in verify(store, name, withdraw=withdraw).faults]


def names(faults: Iterable[Fault]) -> set[str]:
    return {f"{fault.kind} {fault.id}" for fault in faults}


def restore(store: Store, content: Mapping[str, bytes]) -> None:
    now = keys(store)
    store.delete(now.keys() - content.keys())
    for key in content:
        if now.get(key) != content[key]:
            store.put(key, content[key])


def test_every_one_of_200_mutations_is_found_and_mended(
    finished: Store, finish: Callable[..., OpenedStudy]
) -> None:
    """Exactly the broken artifacts are named; after withdrawal a run makes them again."""
    whole = keys(finished)
    hit: set[tuple[str, str]] = set()
    for seed in range(NUM_MUTATIONS):
        how, broken = mutate(finished, chance=random.Random(seed))
        hit.add((how, kind_of(broken[0])))
        expected = {artifact_of(key) for key in broken}
        assert names(all_faults(finished, withdraw=True)) == expected, (seed, how, broken)
        gone = {artifact_of(key) for key in whole.keys() - keys(finished).keys()}
        withdrawn = {each for each in expected if not each.startswith("file ") or PLAN_FILE in each}
        assert gone == (withdrawn if how != "delete" else expected), (seed, how, broken)
        if seed % REMADE_EVERY == 0:
            for name in STUDIES:
                finish(name, url=finished.url)
            assert all_faults(finished, withdraw=False) == [], (seed, how, broken)
        restore(finished, whole)
    assert {kind for _, kind in hit} == {kind_of(key) for key in whole}
    assert {how for how, _ in hit} == set(MUTATIONS)


def test_whole_store_has_no_faults(finished: Store, finish: Callable[..., OpenedStudy]) -> None:
    """All was read: a base, three data sets, experts, merges and six files of the study."""
    report = verify(finished, "small", withdraw=True)
    assert (report.study, report.faults, report.warnings) == ("small", (), ())
    assert report.num_checked == 1 + 3 + 3 + 3 + 6
    own = sum(len(finished.get(f"studies/small/{name}")) for name in OWN_FILES)
    assert report.bytes_checked == own + (1 + 3 * 3 + 3) * 512
    assert finish("small", url=finished.url).is_finished()


def test_dry_run_changes_nothing_and_says_how_to_go_on(finished: Store) -> None:
    """The faults are the same, and each has its next step."""
    for key in ("studies/small/plan.json", manifest_key(finished, "merge")):
        finished.put(key, b"{")
    before = keys(finished)
    report = verify(finished, "small", withdraw=False)
    assert keys(finished) == before
    assert all("run verify without --dry-run" in fault.next_step for fault in report.faults)
    assert names(report.faults) == names(verify(finished, "small", withdraw=True).faults)
    assert keys(finished) != before


def manifest_key(store: Store, kind: str, *, name: str = "small") -> str:
    """Returns the key of a manifest that only one of the two studies has planned."""
    plans = {each: StudyFolder(store, each).read_plan() for each in STUDIES}
    ids = {each: plan.artifact_ids()[kind] for each, plan in plans.items() if plan is not None}
    others = frozenset[str]().union(*(ids[each] for each in STUDIES if each != name))
    return Layout.manifest(kind, min(ids[name] - others))


def test_merges_of_a_broken_expert_stay(finished: Store) -> None:
    """The one fault has expected and found bytes; the expert is made again with equal bytes."""
    key = manifest_key(finished, "expert")
    attempt = Manifest.from_json(finished.get(key), key=key).attempt
    path = key.replace("manifest.json", f"{attempt}/expert.safetensors")
    finished.put(path, finished.get(path)[:-1])
    (fault,) = verify(finished, "small", withdraw=True).faults
    assert f"{fault.kind} {fault.id}" == artifact_of(key)
    assert "expected 512 bytes" in fault.what
    assert "found 511 bytes" in fault.what
    assert str(fault).endswith("; withdrawn, and made again by the next run")
    (again,) = verify(finished, "small", withdraw=True).faults
    assert again.what == "is gone; it existed when a run of the study last ended"
    assert again.next_step == "made again by the next run"


def measurement(store: Store, number: int, *, inputs: Iterable[str], scratch: Path) -> str:
    """Commits a measurement with a file; returns the key of the file."""
    path = scratch / "gradients.npy"
    path.write_bytes(b"sketch")
    made = Artifacts(store).commit(
        Provenance(
            kind="constants",
            id=f"{number:016x}",
            version=1,
            spec={},
            inputs=dict.fromkeys(inputs, "digest"),
        ),
        files={path.name: path},
        metrics={},
        seconds={},
    )
    return Layout.attempt_file("constants", made.id, attempt=made.attempt, name=path.name)


def test_measurements_of_planned_artifacts_are_checked(finished: Store, tmp_path: Path) -> None:
    """A damaged file, a manifest that nobody can read; not those of another study's artifacts."""
    plans = {name: StudyFolder(finished, name).read_plan() for name in STUDIES}
    experts = {name: min(plan.artifact_ids()["expert"]) for name, plan in plans.items() if plan}
    whole = verify(finished, "small", withdraw=True).num_checked
    files = [
        measurement(finished, number, inputs=[experts[name]], scratch=tmp_path)
        for number, name in enumerate(("small", "small", "small", "other"))
    ]
    assert verify(finished, "small", withdraw=True).num_checked == whole + 3
    finished.put(files[1], b"sketc")
    finished.put(files[3], b"sketc")
    finished.put(Layout.manifest("constants", f"{2:016x}"), b"{")
    faults = verify(finished, "small", withdraw=True).faults
    assert names(faults) == {f"constants {1:016x}", f"constants {2:016x}"}
    after = "withdrawn, and made again by `mergesweep measure`"
    assert {fault.next_step for fault in faults} == {after}
    assert verify(finished, "small", withdraw=True).faults == ()


def test_lost_plan_is_built_again_from_the_study(
    finished: Store, finish: Callable[..., OpenedStudy]
) -> None:
    """The planned artifacts are checked, and the next run writes the same plan."""
    plan = finished.get("studies/small/plan.json")
    finished.put("studies/small/plan.json", plan[:-2])
    finished.delete([merge := manifest_key_of_plan(plan)])
    report = verify(finished, "small", withdraw=True)
    assert names(report.faults) == {"file plan.json", artifact_of(merge)}
    assert "is not JSON" in report.faults[0].what
    assert report.faults[0].next_step == "withdrawn, and rewritten by the next run"
    assert report.warnings == ()
    finish("small", url=finished.url)
    assert finished.get("studies/small/plan.json") == plan
    assert finished.get("studies/small/withdrawn-0001-plan.json") == plan[:-2]


def manifest_key_of_plan(plan: bytes) -> str:
    return Layout.manifest("merge", next(iter(parse_checksummed(plan)["merges"])))


@pytest.mark.parametrize("text", [b"", b"\xff", b"name: small\nflavour: 1\n", b"name: [", None])
def test_without_study_and_plan_the_listed_artifacts_are_checked(
    finished: Store, finish: Callable[..., OpenedStudy], text: bytes | None
) -> None:
    """Both files are faults, a warning is given, and running the file mends everything."""
    expert = manifest_key(finished, "expert")
    finished.put(expert, b"{}")
    finished.put("studies/small/plan.json", b"{}")
    finished.delete(["studies/small/study.yaml"])
    if text is not None:
        finished.put("studies/small/study.yaml", text)
    report = verify(finished, "small", withdraw=True)
    assert names(report.faults) == {"file study.yaml", "file plan.json", artifact_of(expert)}
    steps = {fault.id: fault.next_step for fault in report.faults}
    assert steps["study.yaml"] == "restore it from your own copy, then run the study again"
    assert steps["plan.json"].endswith("rewritten when you run study.yaml from your own copy")
    (warning,) = report.warnings
    assert "only the 10 that outputs.json lists were checked" in warning
    finish("small", url=finished.url)
    assert all_faults(finished, withdraw=False) == []


def test_study_of_another_name_is_found_without_a_plan(finished: Store) -> None:
    """The fault of a swapped study file names the study that the file belongs to."""
    finished.put("studies/small/study.yaml", finished.get("studies/other/study.yaml"))
    finished.delete(["studies/small/plan.json"])
    faults = verify(finished, "small", withdraw=True).faults
    assert [fault.what for fault in faults] == ["belongs to study 'other'", "is missing"]


def test_study_that_never_ended_misses_nothing(finished: Store) -> None:
    """Without outputs.json, missing artifacts count as not made yet."""
    outputs = OWN_FILES - {"study.yaml", "plan.json"}
    finished.delete([f"studies/small/{name}" for name in outputs])
    finished.delete([manifest_key(finished, "merge")])
    report = verify(finished, "small", withdraw=True)
    assert (report.faults, report.num_checked) == ((), 1 + 3 + 3 + 2 + 2)


def test_artifacts_that_are_no_longer_planned_may_go(finished: Store) -> None:
    """After an edit, outputs.json still lists artifacts of the plan before."""
    folder = StudyFolder(finished, "small")
    written = folder.read_plan()
    assert written is not None
    gone, *kept = written.merges
    edited = replace(written, merges={each: written.merges[each] for each in kept})
    folder.write_bytes(PLAN_FILE, dump_checksummed(edited.to_json()))
    finished.delete([Layout.manifest("merge", gone)])
    assert verify(finished, "small", withdraw=True).faults == ()


def test_views_and_history_are_not_checked(finished: Store) -> None:
    """Nothing is computed from these files, so their damage harms nothing."""
    for name in ("tracking.json", "failure-x-1.json", "plan.json.0001", "withdrawn-0001-plan.json"):
        finished.put(f"studies/small/{name}", b"{")
    assert verify(finished, "small", withdraw=True).faults == ()


def test_unknown_study_is_an_error_that_lists_the_studies(finished: Store) -> None:
    """A mistyped name is not damage; an impossible name is refused."""
    with pytest.raises(StudyNotFoundError, match="no study 'smal'; studies there: other, small"):
        verify(finished, "smal", withdraw=True)
    with pytest.raises(InvalidNameError):
        verify(finished, "../small", withdraw=True)


def test_store_that_fails_while_it_is_read_loses_nothing(
    finished: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreadable artifacts are not withdrawn, and broken ones only after all are read."""
    merge, expert = manifest_key(finished, "merge"), manifest_key(finished, "expert")
    finished.put(expert, b"{}")
    before, get = keys(finished), finished.get

    def fail(key: str) -> bytes:
        if key == merge:
            raise StoreUnavailableError("away")
        return get(key)

    monkeypatch.setattr(finished, "get", fail)
    with pytest.raises(StoreUnavailableError):
        verify(finished, "small", withdraw=True)
    monkeypatch.undo()
    assert keys(finished) == before


def test_both_kinds_of_store_are_verified(finished: Store, store: Store) -> None:
    """Files in S3 are read as well as files on disk."""
    for key, content in keys(finished).items():
        store.put(key, content)
    assert all_faults(store, withdraw=False) == []
    path = next(e.key for e in store.list("artifacts/data/") if e.key.endswith(".arrow"))
    store.put(path, b"?" + store.get(path)[1:])
    assert names(verify(store, "small", withdraw=True).faults) == {artifact_of(path)}
    assert Artifacts(store).committed_ids("data").isdisjoint({artifact_of(path).split()[1]})

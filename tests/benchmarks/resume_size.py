"""Measures `mergesweep status` and `run` on a study whose 100,000 artifacts are all committed.

The manifests are made up; the store is real. Fill a store once, then measure as often as needed:

    python tests/benchmarks/resume_size.py s3://bucket/prefix?endpoint_url=URL --fill
    python tests/benchmarks/resume_size.py s3://bucket/prefix?endpoint_url=URL --verbs status run
"""

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import Plan, build_plan
from orchestrator.record.folder import StudyFolder
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.write_outputs import write_outputs
from orchestrator.study.reader import parse_study
from orchestrator.tracking.tracker import PublishReport
from workers.artifacts.layout import Layout
from workers.artifacts.manifest_index import ManifestIndex
from workers.artifacts.manifests import FileEntry, Manifest
from workers.artifacts.metrics import DataMetrics
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.store.opening import open_store
from workers.store.protocol import Store

NAME = "resume-size"
STUDY = """
name: {name}
tasks: embedded20
finetune:
  design: grid
  axes:
    lr: [0.0001, 0.0003, 0.001, 0.003, 0.01]
    batch_size: [8, 16, 32, 64, 128]
    data_ratio: [0.2, 0.4, 0.6, 0.8, 1.0]
    steps: {steps}
groups: {{count: 15, size: 8}}
merge: [{{method: average}}, {{method: task_arithmetic}}, {{method: ties}}, {{method: dare}}]
store: {store}
"""
NUM_PER_STEPS = 10_000
"""Experts and merges of all settings with one number of steps: 2,500 and 7,500."""
NUM_THREADS = 16
NUM_CURVE_POINTS = 20
ATTEMPT = "0" * 16
FILE = b"weights"
CREATED_AT_S = 1.8e9

DATA = DataMetrics(
    num_classes=10,
    num_train=1000,
    num_test=500,
    images_per_shard=1500,
    class_counts=None,
    shared=None,
    contradictions=None,
)

Spec = BaseSpec | DataSpec | ExpertSpec | MergeSpec


def study_text(store_url: str, *, num_artifacts: int) -> str:
    """Returns a study with so many experts and merges."""
    steps = [100 * (1 + number) for number in range(num_artifacts // NUM_PER_STEPS)]
    return STUDY.format(name=NAME, steps=steps, store=store_url)


def opened_study(store_url: str, *, num_artifacts: int) -> OpenedStudy:
    """Opens the study."""
    text = study_text(store_url, num_artifacts=num_artifacts)
    return open_study(parse_study(text, source="benchmark"), text=text)


def fill(store_url: str, *, num_artifacts: int) -> None:
    """Puts the manifests that the store lacks, the experts' files, tables, report and index.

    MLflow gets nothing, and a note says that it has everything.
    """
    text = study_text(store_url, num_artifacts=num_artifacts)
    store, plan = open_store(store_url), build_plan(parse_study(text, source="benchmark"))
    StudyFolder(store, NAME).write_plan(plan, study_text=text)
    existing = {entry.key for entry in store.list(Layout.artifacts())}
    made = list(_manifests(plan))
    missing = [each for each in made if _key(each) not in existing]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        list(threads.map(lambda each: _put(store, each), missing))
    ManifestIndex(store, study=NAME).write(made)
    filled = opened_study(store_url, num_artifacts=num_artifacts)
    write_outputs(filled, results=StudyResults.of(filled.ledger.committed()))
    filled.note_published(
        PublishReport(num_published=0, num_unchanged=0, num_pending=0, error=None)
    )


def _manifests(plan: Plan) -> Iterator[Manifest]:
    for base in plan.bases.by_id.values():
        yield _manifest("base", base, metrics={"num_entries": 1})
    for data in plan.datasets:
        yield _manifest("data", data, metrics=DATA.to_json())
    for expert in plan.experts.values():
        yield _manifest("expert", expert, metrics=_expert_metrics(expert))
    for merge in plan.merges.values():
        tasks = {expert.task: _sums(merge.id + expert.task) for expert in merge.experts}
        yield _manifest("merge", merge, metrics={"tasks": tasks, "coverage": 1.0})


def _manifest(kind: str, spec: Spec, *, metrics: Mapping[str, Any]) -> Manifest:
    """Returns a manifest as long as a real one: with inputs, digests and long numbers."""
    used = spec.experts if isinstance(spec, MergeSpec) else ()
    inputs = {each.id: _digest(each.id) for each in used}
    file = FileEntry(name=f"{kind}.safetensors", size_bytes=len(FILE), sha256=_digest("file"))
    return Manifest(
        kind=kind,
        id=spec.id,
        version=1,
        spec=spec.to_json(),
        inputs=inputs,
        files=(file,) if kind in ("expert", "base") else (),
        attempt=ATTEMPT,
        outcome="done",
        metrics=metrics,
        seconds={"trial": _fraction(spec.id), "merge": _fraction(spec.id), "evaluate": 1.0},
        created_at_s=CREATED_AT_S + _fraction(spec.id),
        code_version="0.1.0",
    )


def _expert_metrics(expert: ExpertSpec) -> dict[str, Any]:
    steps = expert.hyperparameters.steps
    curve = [[step, _fraction(f"{expert.id} {step}")] for step in range(NUM_CURVE_POINTS)]
    return {
        "train_loss": 0.1,
        "train_curve": curve,
        "num_classes": 10,
        "steps_taken": steps,
        "test": _sums(expert.id),
        "base": _sums(expert.task),
    }


def _sums(name: str) -> dict[str, float]:
    correct = int(500 * _fraction(name))
    return {"num_examples": 500, "num_correct": correct, "loss_sum": 300 * _fraction(name + "l")}


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _fraction(name: str) -> float:
    return int(_digest(name)[:13], 16) / 16**13


def _key(manifest: Manifest) -> str:
    return Layout.manifest(manifest.kind, manifest.id)


def _put(store: Store, manifest: Manifest) -> None:
    for file in manifest.files:
        key = Layout.attempt_file(manifest.kind, manifest.id, attempt=ATTEMPT, name=file.name)
        store.put(key, FILE)
    store.put(_key(manifest), manifest.to_json())


def measure(verb: str, store_url: str, *, num_artifacts: int) -> tuple[float, float, str]:
    """Returns the seconds and the peak memory (MiB) of a command in its own process, and its end.

    `open` is not a command: it opens the study and prints the number of requests.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(study_text(store_url, num_artifacts=num_artifacts))
        arguments = [str(path)] if verb in ("run", "plan") else [NAME, "--store", store_url]
        command = [sys.executable, "-m", "orchestrator", verb, *arguments]
        if verb == "open":
            command = [sys.executable, __file__, store_url, "--open", "-n", str(num_artifacts)]
        started_s = time.monotonic()
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds = time.monotonic() - started_s
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return seconds, peak_mib, "\n".join((done.stdout + done.stderr).splitlines()[-6:])


def main() -> None:
    """Fills a store or prints the table's rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="URL of a store")
    parser.add_argument("--verbs", nargs="*", default=(), help="status, run or open")
    parser.add_argument("-n", "--num-artifacts", type=int, default=100_000)
    parser.add_argument("--fill", action="store_true", help="put the manifests that it lacks")
    parser.add_argument("--open", action="store_true", help="open the study in this process")
    given = parser.parse_args()
    if given.fill:
        fill(given.store, num_artifacts=given.num_artifacts)
    if given.open:
        opened = opened_study(given.store, num_artifacts=given.num_artifacts)
        print(opened.ledger.state().counts(), opened.artifacts.store.num_requests)  # noqa: T201 its output
    for verb in given.verbs:
        seconds, mib, end = measure(verb, given.store, num_artifacts=given.num_artifacts)
        print(end)  # noqa: T201 its output
        print(f"| {verb} | {seconds:.1f} s | {mib:.0f} MiB |")  # noqa: T201 its output


if __name__ == "__main__":
    main()

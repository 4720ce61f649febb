"""What must hold of a study at its end, whatever was killed on the way."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mlflow import MlflowClient
from parts import descendants, title

from orchestrator.record.folder import EXPERTS_FILE, RESULTS_FILE
from workers.artifacts.layout import Layout
from workers.store.protocol import Store

KEY_TAG = "mergesweep.key"
_PUBLISHER = "orchestrator.tracking.publisher"
_PUBLISHER_S = 60.0
_DURATIONS = ("seconds",)
"""Parts of names of metrics that differ from run to run."""


class CheckError(AssertionError):
    """The study's end is not what it should be; the message says in what."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """All of a finished study that must not depend on what happened on the way."""

    tables: dict[str, bytes]
    """The result tables."""
    runs: dict[str, dict[str, Any]]
    """What MLflow holds under each key: status, params, last metrics."""
    artifacts: dict[str, dict[str, Any]]
    """What the store holds: kind and id to outcome, metrics, and the digests of the files."""


def read_ending(store: Store, *, study: str, tracking: str) -> Ending:
    """Reads how a study ended and puts its MLflow experiment out of the next one's way.

    Raises:
        CheckError: MLflow holds a key twice, or the store has no table.
    """
    return Ending(
        tables={
            name: store.get(Layout.study(study, name)) for name in (RESULTS_FILE, EXPERTS_FILE)
        },
        runs=_runs(tracking, study=study),
        artifacts=_artifacts(store),
    )


def set_aside(tracking: str, *, study: str, name: str) -> None:
    """Renames a study's experiment, so that the same study can be run again."""
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name(study)
    if experiment is not None:
        client.rename_experiment(experiment.experiment_id, name)


def compare(ending: Ending, *, expected: Ending) -> None:
    """Compares how a disturbed study ended with how an undisturbed one did.

    Raises:
        CheckError: Something differs.
    """
    for name, content in expected.tables.items():
        if ending.tables[name] != content:
            raise CheckError(f"{name} differs from the undisturbed run's")
    for what, found, wanted in (
        ("artifact", ending.artifacts, expected.artifacts),
        ("MLflow run", ending.runs, expected.runs),
    ):
        differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        if differing:
            first = differing[0]
            raise CheckError(
                f"{len(differing)} {what}s differ, such as {first}\n"
                f"found:  {json.dumps(found.get(first))}\nwanted: {json.dumps(wanted.get(first))}"
            )


def check_no_orphans(store: Store) -> None:
    """Holds every object to be a manifest or a file of its artifact's winning attempt.

    Raises:
        CheckError: There are others; the message lists the first five.
    """
    keys = [entry.key for entry in store.list("artifacts/")]
    manifests = {key for key in keys if Layout.parse_manifest_key(key) is not None}
    reachable = set(manifests)
    for key in manifests:
        manifest = json.loads(store.get(key))
        attempt = PurePosixPath(key).parent / manifest["attempt"]
        reachable |= {str(attempt / entry["name"]) for entry in manifest["files"]}
    if missing := sorted(reachable - set(keys)):
        raise CheckError(f"{len(missing)} files of committed artifacts are gone: {missing[:5]}")
    checkpoints = [entry.key for entry in store.list("in-flight/")]
    if orphans := sorted({*keys, *checkpoints} - reachable):
        raise CheckError(f"{len(orphans)} objects belong to no artifact: {orphans[:5]}")


def wait_for_publishers() -> None:
    """Waits until no publisher is left of a killed driver: it goes on for half a minute.

    Raises:
        CheckError: One stays.
    """
    deadline_s = time.monotonic() + _PUBLISHER_S
    while left := [each for each in descendants() if _PUBLISHER in title(each)]:
        if time.monotonic() > deadline_s:
            raise CheckError(f"publishers of killed drivers stay: {left}")
        time.sleep(0.5)


def _runs(tracking: str, *, study: str) -> dict[str, dict[str, Any]]:
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        raise CheckError(f"MLflow has no experiment {study}")
    found = client.search_runs([experiment.experiment_id], max_results=5000)
    keys = [run.data.tags.get(KEY_TAG, "no key") for run in found]
    if twice := [key for key, number in Counter(keys).items() if number > 1]:
        raise CheckError(f"MLflow has {len(twice)} keys more than once, such as {twice[:5]}")
    return {
        key: {
            "status": run.info.status,
            "params": run.data.params,
            "metrics": {k: v for k, v in run.data.metrics.items() if not _is_duration(k)},
        }
        for key, run in zip(keys, found, strict=True)
    }


def _is_duration(name: str) -> bool:
    return any(part in name for part in _DURATIONS)


def _artifacts(store: Store) -> dict[str, dict[str, Any]]:
    found = {}
    for entry in store.list("artifacts/"):
        address = Layout.parse_manifest_key(entry.key)
        if address is not None:
            manifest = json.loads(store.get(entry.key))
            found["/".join(address)] = {
                "outcome": manifest["outcome"],
                "metrics": manifest["metrics"],
                "files": {each["name"]: each["sha256"] for each in manifest["files"]},
            }
    return found

"""Checks that must hold at a study's end, whichever parts were killed."""

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
"""Parts of the names of metrics that differ each time."""


class CheckError(AssertionError):
    """A study that ended differently; the message names the difference."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The results of a finished study that must not depend on faults."""

    tables: dict[str, bytes]
    """The result tables."""
    runs: dict[str, dict[str, Any]]
    """Status, params and last metrics of each MLflow run, by key."""
    artifacts: dict[str, dict[str, Any]]
    """Outcome, metrics and file digests of each artifact, by kind and id."""


def read_ending(store: Store, *, study: str, tracking: str) -> Ending:
    """Reads the results of a finished study.

    Raises:
        CheckError: MLflow has a key twice, or the store has no table.
    """
    return Ending(
        tables={
            name: store.get(Layout.study(study, name)) for name in (RESULTS_FILE, EXPERTS_FILE)
        },
        runs=_runs(tracking, study=study),
        artifacts=_artifacts(store),
    )


def set_aside(tracking: str, *, study: str, name: str) -> None:
    """Renames a study's MLflow experiment, so that the study can run again."""
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name(study)
    if experiment is not None:
        client.rename_experiment(experiment.experiment_id, name)


def compare(ending: Ending, *, expected: Ending) -> None:
    """Compares the endings of a disturbed and an undisturbed study.

    Raises:
        CheckError: They differ.
    """
    for name, content in expected.tables.items():
        if ending.tables[name] != content:
            raise CheckError(f"{name} differs from the undisturbed study's")
    for what, found, wanted in (
        ("artifact", ending.artifacts, expected.artifacts),
        ("MLflow run", ending.runs, expected.runs),
    ):
        differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        if differing:
            first = differing[0]
            raise CheckError(
                f"{len(differing)} {what}s differ, such as {first}\n"
                f"found:    {json.dumps(found.get(first))}\n"
                f"expected: {json.dumps(wanted.get(first))}"
            )


def check_no_orphans(store: Store) -> None:
    """Checks that every object is a manifest or a file of its artifact's winning attempt.

    Raises:
        CheckError: Other objects exist, or files are missing; the message names the first five.
    """
    keys = [entry.key for entry in store.list("artifacts/")]
    manifests = {key for key in keys if Layout.parse_manifest_key(key) is not None}
    reachable = set(manifests)
    for key in manifests:
        manifest = json.loads(store.get(key))
        attempt = PurePosixPath(key).parent / manifest["attempt"]
        reachable |= {str(attempt / entry["name"]) for entry in manifest["files"]}
    if missing := sorted(reachable - set(keys)):
        raise CheckError(f"{len(missing)} files of committed artifacts are missing: {missing[:5]}")
    checkpoints = [entry.key for entry in store.list("in-flight/")]
    if orphans := sorted({*keys, *checkpoints} - reachable):
        raise CheckError(f"{len(orphans)} objects belong to no artifact: {orphans[:5]}")


def wait_for_publishers() -> None:
    """Waits until the publishers of killed drivers have ended, which takes up to half a minute.

    Raises:
        CheckError: A publisher does not end.
    """
    deadline_s = time.monotonic() + _PUBLISHER_S
    while left := [each for each in descendants() if _PUBLISHER in title(each)]:
        if time.monotonic() > deadline_s:
            raise CheckError(f"publishers of killed drivers do not end: {left}")
        time.sleep(0.5)


def _runs(tracking: str, *, study: str) -> dict[str, dict[str, Any]]:
    client = MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        raise CheckError(f"MLflow has no experiment {study}")
    found = client.search_runs([experiment.experiment_id], max_results=5000)
    keys = [run.data.tags.get(KEY_TAG, "no key") for run in found]
    if twice := [key for key, number in Counter(keys).items() if number > 1]:
        raise CheckError(f"MLflow has {len(twice)} keys more than once: {twice[:5]}")
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

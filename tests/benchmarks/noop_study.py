"""Runs a study file to its end with workers that train nothing, to look at its report and MLflow.

Everything but the computation is real, as in `trial_overhead.py`. Experts and merges get made-up
scores that differ, so that figures and tables show something.

    python tests/benchmarks/noop_study.py deploy/studies/paper-full-grid.yaml ./noop-store
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import noop_worker
import torch
import yaml
from study_run import run_with

from orchestrator.cli.verbs.run import CLOSE_TRACKING_S
from orchestrator.results.study_results import StudyResults
from orchestrator.run.indexing import indexing
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.write_outputs import publish_outputs, write_outputs
from orchestrator.study.reader import parse_study
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import DataMetrics
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec

NUM_EXAMPLES = 100
DATA = DataMetrics(
    num_classes=10,
    num_train=1000,
    num_test=NUM_EXAMPLES,
    images_per_shard=1500,
    class_counts=None,
    shared=None,
    contradictions=None,
)


class Worker(noop_worker.Worker):
    """A worker that commits made-up scores at once; the same artifact has the same ones."""

    def _commit(
        self,
        kind: str,
        spec: BaseSpec | DataSpec | ExpertSpec | MergeSpec,
        *,
        inputs: Mapping[str, str],
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        metrics: Mapping[str, Any],
    ) -> Manifest:
        if isinstance(spec, ExpertSpec):
            metrics = {**metrics, "test": _scores(spec, lost=0), "base": _scores(spec, lost=40)}
        if isinstance(spec, DataSpec):
            metrics = DATA.to_json()
        if isinstance(spec, MergeSpec):
            lost = 2 * len(spec.experts)
            tasks = {each.task: _scores(each, lost=lost) for each in spec.experts}
            metrics = {**metrics, "tasks": tasks}
        return super()._commit(kind, spec, inputs=inputs, tensors=tensors, metrics=metrics)


def _scores(expert: ExpertSpec, *, lost: int) -> dict[str, float]:
    correct = max(1, 70 + int(expert.id[:4], 16) % 30 - lost)
    loss = NUM_EXAMPLES - correct
    return {"num_examples": NUM_EXAMPLES, "num_correct": correct, "loss_sum": float(loss)}


def run(opened: OpenedStudy) -> None:
    """Runs a study as `mergesweep run` does, with another worker; prints the time of each part."""
    started_s = time.monotonic()
    with indexing(opened):
        tracker = run_with("noop_study:Worker", opened=opened)
    made_s = time.monotonic()
    committed = opened.ledger.committed()
    results = StudyResults.of(committed)
    page = write_outputs(opened, results=results)
    written_s = time.monotonic()
    publish_outputs(committed, results=results, make_page=lambda _: page, publish=tracker.publish)
    published = tracker.close(CLOSE_TRACKING_S)
    opened.note_published(published)
    print(opened.ledger.state().counts())  # noqa: T201 its output
    print(f"made {made_s - started_s:.1f} s, tables and report {written_s - made_s:.1f} s")  # noqa: T201 its output
    print(f"MLflow {time.monotonic() - written_s:.1f} s, {published}, report {len(page)} bytes")  # noqa: T201 its output


def main() -> None:
    """Runs a study file in a store, with one core for each worker and no GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("store", type=Path)
    given = parser.parse_args()
    share = {"cpu": 1}
    fields = yaml.safe_load(given.study.read_text())
    fields |= {"store": str(given.store), "resources": {"trial": share, "merge": share}}
    text = yaml.safe_dump(fields)
    run(open_study(parse_study(text, source=str(given.study)), text=text))


if __name__ == "__main__":
    main()

"""A worker that sleeps and reports like a training and commits a small expert. Loads no torch.

It runs in Ray's processes, which inherit the environment variables of the cluster's nodes.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifests import Manifest
from workers.artifacts.provenance import Provenance
from workers.prepare.progress import PreparationProgress
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.data import DataJob, DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import TrialSpec
from workers.store.opening import open_store
from workers.train.memory_share import WHOLE_BATCHES, MemoryShare

SLEEP_VARIABLE = "TIMED_SLEEP_S"
"""Seconds between two reports."""
REPORTS_VARIABLE = "TIMED_REPORTS"
"""Reports of a trial, the last one with its expert."""
SCORES = {"num_examples": 100, "num_correct": 90, "loss_sum": 30.0}
NUM_CURVE_POINTS = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Stands for the report of a real trial."""

    step: int
    loss: float | None
    committed: tuple[Manifest, ...] = ()


class Worker:
    """Takes the time that the environment says, and computes nothing."""

    def __init__(self, store_url: str, *, num_cpus: float) -> None:
        del num_cpus
        self._artifacts = Artifacts(open_store(store_url))
        self._sleep_s = float(os.environ[SLEEP_VARIABLE])
        self._num_reports = int(os.environ[REPORTS_VARIABLE])

    def run_training(
        self,
        spec: TrialSpec,
        *,
        report_every_s: float,
        checkpoint_every_s: float,
        memory: MemoryShare = WHOLE_BATCHES,
    ) -> Iterator[Progress]:
        """Sleeps before each report; notes when the trial began and ended."""
        del report_every_s, checkpoint_every_s, memory
        began_s = time.time()
        for _ in range(self._num_reports - 1):
            time.sleep(self._sleep_s)
            yield Progress(step=0, loss=0.1)
        time.sleep(self._sleep_s)
        for expert in spec.outputs:
            metrics = {
                "train_loss": 0.1,
                "train_curve": [[step, 1 / (1 + step)] for step in range(NUM_CURVE_POINTS)],
                "num_classes": 10,
                "steps_taken": expert.hyperparameters.steps,
                "test": SCORES,
                "base": SCORES,
                "process": os.getpid(),
                "began_s": began_s,
            }
            made = self._commit("expert", expert, metrics=metrics)
            yield Progress(step=expert.hyperparameters.steps, loss=0.1, committed=(made,))

    def run_merge(self, spec: MergeSpec) -> Manifest:
        """Commits the scores of a merge."""
        tasks = [expert.task for expert in (*spec.experts, *spec.held_out)]
        metrics = {"tasks": dict.fromkeys(tasks, SCORES), "coverage": 1.0}
        return self._commit("merge", spec, metrics=metrics)

    def prepare_base(self, job: BaseJob) -> Manifest:
        """Commits a base."""
        return self._commit("base", job.spec, metrics={})

    def prepare_data(self, job: DataJob) -> Iterator[PreparationProgress]:
        """Commits the images of a task."""
        committed = self._commit("data", job.spec, metrics={"num_classes": 10})
        yield PreparationProgress(
            task=job.spec.task, num_images=1, num_done=1, images_per_s=1.0, committed=committed
        )

    def _commit(
        self,
        kind: str,
        spec: BaseSpec | DataSpec | ExpertSpec | MergeSpec,
        *,
        metrics: dict[str, Any],
    ) -> Manifest:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "file"
            path.write_text(kind)
            return self._artifacts.commit(
                Provenance.of(spec, kind=kind, inputs={}),
                files={"file": path},
                metrics=metrics,
                seconds=dict.fromkeys(("trial", "merge", "evaluate"), 0.001),
            )

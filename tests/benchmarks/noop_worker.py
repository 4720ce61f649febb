"""A worker that trains nothing, so that only the cost of orchestration remains.

It commits real artifacts through the real store and skips only the computation.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from workers import process
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
from workers.train.resumable import TrainingProgress
from workers.workspace import BASE_FILE, EXPERT_FILE

SCORES = {"num_examples": 100, "num_correct": 90, "loss_sum": 30.0}
TENSORS = {f"backbone.layer{number}": torch.zeros(8, 8) for number in range(4)}
NUM_CURVE_POINTS = 20


class Worker(process.Worker):
    """A worker that commits fixed artifacts at once."""

    def __init__(self, store_url: str, *, num_cpus: float) -> None:
        """Loads everything that a real worker loads."""
        super().__init__(store_url, num_cpus=num_cpus)
        self._artifacts = Artifacts(open_store(store_url))
        self._digests: dict[str, str] = {}

    def run_training(
        self,
        spec: TrialSpec,
        *,
        report_every_s: float,
        checkpoint_every_s: float,
        memory: MemoryShare = WHOLE_BATCHES,
    ) -> Iterator[TrainingProgress]:
        """Commits a few small tensors as each expert."""
        del report_every_s, checkpoint_every_s, memory
        for expert in spec.outputs:
            manifest = self._commit_expert(expert)
            yield TrainingProgress(
                step=expert.hyperparameters.steps, loss=0.1, committed=(manifest,)
            )

    def run_merge(self, spec: MergeSpec) -> Manifest:
        """Commits fixed scores."""
        tasks = [expert.task for expert in (*spec.experts, *spec.held_out)]
        metrics = {"tasks": dict.fromkeys(tasks, SCORES), "coverage": 1.0}
        return self._commit("merge", spec, inputs={}, tensors={}, metrics=metrics)

    def prepare_base(self, job: BaseJob) -> Manifest:
        """Commits a few small tensors as the base."""
        return self._commit("base", job.spec, inputs={}, tensors={BASE_FILE: TENSORS}, metrics={})

    def prepare_data(self, job: DataJob) -> Iterator[PreparationProgress]:
        """Commits images without a file."""
        metrics = {"num_classes": 10}
        committed = self._commit("data", job.spec, inputs={}, tensors={}, metrics=metrics)
        yield PreparationProgress(
            task=job.spec.task, num_images=0, num_done=0, images_per_s=0.0, committed=committed
        )

    def _commit_expert(self, spec: ExpertSpec) -> Manifest:
        inputs = {
            spec.base_id: self._digest("base", spec.base_id),
            spec.data_id: self._digest("data", spec.data_id),
        }
        metrics = {
            "train_loss": 0.1,
            "train_curve": [[step, 1 / (1 + step)] for step in range(NUM_CURVE_POINTS)],
            "num_classes": 10,
            "steps_taken": spec.hyperparameters.steps,
            "test": SCORES,
            "base": SCORES,
            "process": os.getpid(),
            "num_requests_before": self._artifacts.store.num_requests,
        }
        files = {EXPERT_FILE: TENSORS}
        return self._commit("expert", spec, inputs=inputs, tensors=files, metrics=metrics)

    def _digest(self, kind: str, artifact_id: str) -> str:
        """Returns a manifest's digest; reads each manifest once, as a workspace does."""
        if artifact_id not in self._digests:
            found = self._artifacts.find(kind, artifact_id)
            assert found is not None
            self._digests[artifact_id] = found.digest
        return self._digests[artifact_id]

    def _commit(
        self,
        kind: str,
        spec: BaseSpec | DataSpec | ExpertSpec | MergeSpec,
        *,
        inputs: Mapping[str, str],
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        metrics: Mapping[str, Any],
    ) -> Manifest:
        with tempfile.TemporaryDirectory() as scratch:
            files = {name: Path(scratch) / name for name in tensors}
            for name, path in files.items():
                save_file(dict(tensors[name]), path)
            return self._artifacts.commit(
                Provenance.of(spec, kind=kind, inputs=inputs),
                files=files,
                metrics=metrics,
                seconds=dict.fromkeys(("trial", "merge", "evaluate"), 0.001),
            )

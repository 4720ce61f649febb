"""A worker that computes nothing and commits artifacts.

It runs in Ray's processes and keeps notes beside the store: `running-<trial>` while a process has a
trial, `left-<trial>` after a trial was stopped. All trials end once there is a note `go`.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripted_worker import Progress

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
from workers.train.memory_share import MemoryShare

SCORES = {"num_examples": 100, "num_correct": 90, "loss_sum": 30.0}


class Worker:
    """Commits the artifacts of a real worker without the computation."""

    def __init__(self, store_url: str, *, num_cpus: float) -> None:
        self._artifacts = Artifacts(open_store(store_url), code_version=lambda: "test")
        self._notes = Path(store_url).parent
        self._num_cpus = num_cpus

    def prepare_base(self, job: BaseJob) -> Manifest:
        """Commits a base."""
        return self._commit("base", job.spec, metrics={})

    def prepare_data(self, job: DataJob) -> Iterator[PreparationProgress]:
        """Commits the images of a task."""
        committed = self._commit("data", job.spec, metrics={"num_classes": 10})
        yield PreparationProgress(
            task=job.spec.task, num_images=1, num_done=1, images_per_s=1.0, committed=committed
        )

    def run_training(
        self,
        spec: TrialSpec,
        *,
        report_every_s: float,
        checkpoint_every_s: float,
        memory: MemoryShare,
    ) -> Iterator[Progress]:
        """Reports ten times a second until the note `go` exists."""
        del report_every_s, checkpoint_every_s, memory
        note = self._notes / f"running-{spec.id}"
        note.write_text(str(os.getpid()))
        try:
            while not (self._notes / "go").exists():
                time.sleep(0.1)
                yield Progress(step=0, loss=None, committed=())
        except GeneratorExit:
            (self._notes / f"left-{spec.id}").touch()
            raise
        finally:
            note.unlink()
        metrics = {
            "train_loss": 0.1,
            "train_curve": [[1, 0.1]],
            "num_classes": 10,
            "steps_taken": 1,
            "test": SCORES,
            "base": SCORES,
        }
        for expert in spec.outputs:
            made = self._commit("expert", expert, metrics=metrics)
            yield Progress(step=expert.hyperparameters.steps, loss=0.1, committed=(made,))

    def run_merge(self, spec: MergeSpec) -> Manifest:
        """Commits the scores of a merge."""
        tasks = [expert.task for expert in (*spec.experts, *spec.held_out)]
        return self._commit(
            "merge", spec, metrics={"tasks": dict.fromkeys(tasks, SCORES), "coverage": 1.0}
        )

    def _commit(
        self,
        kind: str,
        spec: BaseSpec | DataSpec | ExpertSpec | MergeSpec,
        *,
        metrics: Mapping[str, Any],
    ) -> Manifest:
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "file"
            file.write_text(kind)
            return self._artifacts.commit(
                Provenance.of(spec, kind=kind, inputs={}),
                files={"file": file},
                metrics=metrics,
                seconds={"trial": 0.1} if kind == "expert" else {"merge": 0.1, "evaluate": 0.1},
            )

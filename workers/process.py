"""Runs jobs in one worker process, which Ray starts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from workers.artifacts.manifests import Manifest
from workers.artifacts.node_cache import cache_root
from workers.freed_memory import keep_freed_memory
from workers.measure.constants import measure_constants
from workers.measure.operator import measure_operator
from workers.measure.reach import measure_reach
from workers.merging.choice import ChosenMergeJob
from workers.merging.merge_job import run_merge
from workers.prepare.bases import prepare_base
from workers.prepare.images import prepare_data
from workers.prepare.progress import PreparationProgress
from workers.prepare.zero_shot import prepare_head
from workers.specs.bases import BaseJob
from workers.specs.data import DataJob
from workers.specs.head import HeadJob
from workers.specs.measures import ConstantsSpec, OperatorSpec, ReachSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import Training, TrialSpec
from workers.train.memory_limit import device_memory
from workers.train.memory_share import WHOLE_BATCHES, MemoryShare
from workers.train.pretrain import run_pretraining
from workers.train.resumable import CHECKPOINT_EVERY_S, Timing, TrainingProgress
from workers.train.trial import run_trial
from workers.workspace import Workspace

CACHE_FRACTION = 0.5
"""Upper limit of the node's file cache, as a fraction of the disk that the cache is on."""


class Worker:
    """A process that runs one job after another and keeps backbones and images loaded between them.

    Torch uses `num_cpus` threads, rounded down but at least one.
    """

    def __init__(self, store_url: str, *, num_cpus: float) -> None:
        keep_freed_memory()
        torch.set_num_threads(max(1, int(num_cpus)))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        root = cache_root()
        self._workspace = Workspace(
            store_url, cache_root=root, device=device, cache_bytes=_cache_bytes(root)
        )

    def run_training(
        self,
        spec: Training,
        *,
        report_every_s: float,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
        memory: MemoryShare = WHOLE_BATCHES,
    ) -> Iterator[TrainingProgress]:
        """Runs a trial, which commits experts, or a pretraining, which commits bases.

        See `workers.train.trial.run_trial` and `workers.train.pretrain.run_pretraining`.

        Raises:
            DeviceMemoryError: The training needs more memory than its device has, or its part of a
                GPU.
        """
        timing = Timing(report_every_s=report_every_s, checkpoint_every_s=checkpoint_every_s)
        workspace = self._workspace
        with device_memory(memory, device=workspace.device):
            if isinstance(spec, TrialSpec):
                yield from run_trial(spec, workspace=workspace, timing=timing, memory=memory)
            else:
                yield from run_pretraining(spec, workspace=workspace, timing=timing, memory=memory)

    def run_merge(self, spec: MergeSpec) -> Manifest:
        """Merges, evaluates and commits the scores; see `workers.merging.merge_job.run_merge`."""
        return run_merge(spec, workspace=self._workspace)

    def run_chosen_merge(self, job: ChosenMergeJob) -> Manifest:
        """Merges at values that other merges chose; see `run_merge`."""
        return run_merge(job.spec, workspace=self._workspace, choice=job.choice)

    def prepare_base(self, job: BaseJob) -> Manifest:
        """Commits a base; see `workers.prepare.bases.prepare_base`."""
        return prepare_base(job, workspace=self._workspace)

    def prepare_data(self, job: DataJob) -> Iterator[PreparationProgress]:
        """Commits a task's images; see `workers.prepare.images.prepare_data`."""
        return prepare_data(job, workspace=self._workspace)

    def prepare_head(self, job: HeadJob) -> Manifest:
        """Commits a task's zero-shot head; see `workers.prepare.zero_shot.prepare_head`."""
        return prepare_head(job, workspace=self._workspace)

    def measure_constants(self, spec: ConstantsSpec) -> Manifest:
        """Commits a task's constants; see `workers.measure.constants.measure_constants`."""
        return measure_constants(spec, workspace=self._workspace)

    def measure_reach(self, spec: ReachSpec) -> Manifest:
        """Commits the reach of a path; see `workers.measure.reach.measure_reach`."""
        return measure_reach(spec, workspace=self._workspace)

    def measure_operator(self, spec: OperatorSpec) -> Manifest:
        """Commits a method's effect; see `workers.measure.operator.measure_operator`."""
        return measure_operator(spec, workspace=self._workspace)


def _cache_bytes(root: Path) -> int:
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    return int(CACHE_FRACTION * shutil.disk_usage(existing).total)

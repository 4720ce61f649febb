"""One worker process: a device, a workspace, and the jobs it can do."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from workers.cache import cache_root
from workers.manifests import Manifest
from workers.merge_job import run_merge
from workers.prepare import prepare_base, prepare_data
from workers.specs import BaseJob, DataSpec, MergeSpec, TrialSpec
from workers.trial import CHECKPOINT_EVERY_S, TrialProgress, run_trial
from workers.workspace import Workspace

CACHE_FRACTION = 0.5
"""What they may take of the disk that they are on."""


class Worker:
    """Runs jobs one after another, keeping the device, base and images warm between them."""

    def __init__(self, store_url: str, *, num_cpus: float) -> None:
        torch.set_num_threads(max(1, int(num_cpus)))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        root = cache_root()
        self._workspace = Workspace(
            store_url, cache_root=root, device=device, cache_bytes=_cache_bytes(root)
        )

    def run_trial(
        self,
        spec: TrialSpec,
        *,
        report_every_s: float,
        checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    ) -> Iterator[TrialProgress]:
        """Fine-tunes and commits experts; see `workers.trial.run_trial`."""
        return run_trial(
            spec,
            workspace=self._workspace,
            report_every_s=report_every_s,
            checkpoint_every_s=checkpoint_every_s,
        )

    def run_merge(self, spec: MergeSpec) -> Manifest:
        """Merges and evaluates; see `workers.merge_job.run_merge`."""
        return run_merge(spec, workspace=self._workspace)

    def prepare_base(self, job: BaseJob) -> Manifest:
        """Commits the base; see `workers.prepare.prepare_base`."""
        return prepare_base(job, workspace=self._workspace)

    def prepare_data(self, spec: DataSpec) -> Manifest:
        """Commits a task's images; see `workers.prepare.prepare_data`."""
        return prepare_data(spec, workspace=self._workspace)


def _cache_bytes(root: Path) -> int:
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    return int(CACHE_FRACTION * shutil.disk_usage(existing).total)

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from workers import process
from workers.artifacts.node_cache import CACHE_VARIABLE, cache_root
from workers.process import Worker
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.data import DataJob, DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.training import TrialSpec
from workers.store.private_directory import user_directory_path
from workers.train.memory_share import MemoryShare
from workers.train.resumable import Timing, TrainingProgress


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives the test its own node cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "node"))
    return tmp_path / "node"


def test_worker_does_a_study_from_preparation_to_merge(
    tmp_path: Path,
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    data_job: Callable[[DataSpec], DataJob],
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """One process runs every kind of job on one store."""
    worker = Worker(str(tmp_path / "store"), num_cpus=1)
    assert worker.prepare_base(BaseJob(spec=base, path=None)).id == base.id
    data = datasets["mnist_5k"]
    *_, prepared = worker.prepare_data(data_job(data))
    assert prepared.committed is not None
    assert prepared.committed.id == data.id
    expert = make_expert()
    trial = TrialSpec(longest=expert, snapshots=(expert.hyperparameters.steps,))
    (progress,) = worker.run_training(trial, report_every_s=1e9)
    assert [manifest.id for manifest in progress.committed] == [expert.id]
    merge = MergeSpec(
        method="average",
        params={},
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=base.id,
        experts=(expert,),
        held_out=(),
    )
    assert worker.run_merge(merge).id == merge.id


def test_interval_between_checkpoints_reaches_the_trial(
    tmp_path: Path, make_expert: Callable[..., ExpertSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial also gets its specification and the interval between reports."""
    asked: dict[str, object] = {}

    def take(spec: TrialSpec, **arguments: object) -> Iterator[TrainingProgress]:
        asked.update(spec=spec, **arguments)
        return iter(())

    monkeypatch.setattr(process, "run_trial", take)
    worker = Worker(str(tmp_path / "store"), num_cpus=1)
    trial = TrialSpec(longest=make_expert(), snapshots=(3,))
    memory = MemoryShare(micro_batch=2)
    progress = worker.run_training(trial, report_every_s=2.0, checkpoint_every_s=7.0, memory=memory)
    assert list(progress) == []
    assert asked.pop("workspace") is worker._workspace
    timing = Timing(report_every_s=2.0, checkpoint_every_s=7.0)
    assert asked == {"spec": trial, "timing": timing, "memory": memory}


@pytest.mark.parametrize(("num_cpus", "threads"), [(0.25, 1), (1, 1), (2.5, 2)])
def test_worker_uses_as_many_threads_as_cores(
    tmp_path: Path, num_cpus: float, threads: int
) -> None:
    """The number is rounded down but at least one."""
    before = torch.get_num_threads()
    try:
        Worker(str(tmp_path / "store"), num_cpus=num_cpus)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_environment_variable_sets_the_cache(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable, the cache is in the temporary directory, one per user."""
    assert cache_root() == own_cache
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_root() == user_directory_path() / "cache"


def test_cache_may_take_half_of_its_disk(own_cache: Path) -> None:
    """The cache's directory need not exist yet."""
    assert not own_cache.exists()
    assert process._cache_bytes(own_cache) == shutil.disk_usage(own_cache.parent).total // 2

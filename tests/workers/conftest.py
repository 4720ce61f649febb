"""A store with a tiny base and three real tasks, and functions that run trials on it."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.suites import find_task
from eval.task_source import TaskSource
from workers.artifacts.manifests import Manifest
from workers.prepare.bases import prepare_base
from workers.prepare.images import prepare_data
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.data import DataJob, DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.training import TrialSpec
from workers.train.resumable import Timing
from workers.train.trial import run_trial
from workers.workspace import Workspace

CPU = torch.device("cpu")
IMAGE_SIZE = 32


@pytest.fixture
def base() -> BaseSpec:
    """Returns a base with BatchNorm: 99,196 parameters with random weights."""
    return _base()


@pytest.fixture
def datasets() -> Mapping[str, DataSpec]:
    """Returns three tasks by name; the first is grey."""
    return _datasets()


@pytest.fixture
def data_job() -> Callable[[DataSpec], DataJob]:
    """Returns a function that makes the job of an embedded task's images."""
    return _job


@pytest.fixture(scope="session")
def prepared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commits base and images once per session; tests copy the store."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("prepared")
    workspace = Workspace(str(root / "store"), cache_root=root / "cache", device=CPU)
    prepare_base(BaseJob(spec=_base(), path=None), workspace=workspace)
    for data in _datasets().values():
        list(prepare_data(_job(data), workspace=workspace))
    return root / "store"


@pytest.fixture
def store_root(prepared_store: Path, tmp_path: Path) -> Path:
    """Returns the test's own store with the base and the images."""
    return shutil.copytree(prepared_store, tmp_path / "store")


@pytest.fixture
def new_workspace(store_root: Path, tmp_path: Path) -> Callable[[], Workspace]:
    """Returns a function that opens a workspace as a fresh process does."""
    return lambda: Workspace(str(store_root), cache_root=tmp_path / "cache", device=CPU)


@pytest.fixture
def workspace(new_workspace: Callable[[], Workspace]) -> Workspace:
    """Returns a fresh workspace."""
    return new_workspace()


@pytest.fixture
def make_base(workspace: Workspace) -> Callable[..., BaseSpec]:
    """Returns a function that commits another base with random weights."""

    def make(*, model: str, seed: int) -> BaseSpec:
        spec = BaseSpec(model=model, weights="none", seed=seed)
        prepare_base(BaseJob(spec=spec, path=None), workspace=workspace)
        return spec

    return make


@pytest.fixture(scope="session")
def make_expert() -> Callable[..., ExpertSpec]:
    """Returns a function that specifies an expert, given a task and changed fields."""
    base, datasets = _base(), _datasets()

    def make(task: str = "mnist_5k", **changes: Any) -> ExpertSpec:  # noqa: ANN401 any field
        spec = ExpertSpec(
            task=task,
            base_id=base.id,
            data_id=datasets[task].id,
            hyperparameters=Hyperparameters(
                steps=3, batch_size=8, lr=0.05, data_ratio=1.0, optimizer="sgd", seed=0
            ),
            constants=TrainingConstants(momentum=0.9, freeze_batch_norm=False),
        )
        return _changed(spec, **changes)

    return make


@pytest.fixture(scope="session")
def run() -> Callable[..., list[Manifest]]:
    """Returns a function that runs a trial to its end and returns its experts' manifests."""

    def run(longest: ExpertSpec, *snapshots: int, workspace: Workspace) -> list[Manifest]:
        spec = TrialSpec(longest=longest, snapshots=snapshots or (longest.hyperparameters.steps,))
        progress = run_trial(spec, workspace=workspace, timing=Timing(report_every_s=1e9))
        return [manifest for each in progress for manifest in each.committed]

    return run


@pytest.fixture(scope="session")
def trained_store(
    prepared_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> Path:
    """Commits one expert per task, once per session; tests copy them."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(prepared_store, root / "store")
    for task in _datasets():
        workspace = Workspace(str(root / "store"), cache_root=root / "cache", device=CPU)
        run(make_expert(task), workspace=workspace)
    return root / "store"


@pytest.fixture
def experts(
    make_expert: Callable[..., ExpertSpec], trained_store: Path, store_root: Path
) -> tuple[ExpertSpec, ...]:
    """Commits one expert per task; returns their specifications in the order of the tasks."""
    folder = Path("artifacts", "expert")
    shutil.copytree(trained_store / folder, store_root / folder)
    return tuple(make_expert(task) for task in sorted(_datasets()))


@pytest.fixture(autouse=True)
def keep_torch_settings() -> Iterator[None]:
    """Undoes settings that jobs change for their whole process."""
    yield
    torch.use_deterministic_algorithms(mode=False)


def _changed(spec: ExpertSpec, **changes: Any) -> ExpertSpec:  # noqa: ANN401 any field
    parts = {"hyperparameters": spec.hyperparameters, "constants": spec.constants}
    for name, part in parts.items():
        names = changes.keys() & {field.name for field in fields(part)}
        spec = replace(spec, **{name: replace(part, **{each: changes.pop(each) for each in names})})
    return replace(spec, **changes)


def _base() -> BaseSpec:
    return BaseSpec(model="test_efficientnet", weights="none", seed=0)


def _datasets() -> dict[str, DataSpec]:
    names = ("mnist_5k", "bluemarble_regions", "mnist_m")
    return {
        name: DataSpec(
            task=name,
            fingerprint=find_task(name).fingerprint,
            image_size=IMAGE_SIZE,
            max_train=40,
            max_test=48,
            evaluate_on="test",
        )
        for name in names
    }


def _job(spec: DataSpec) -> DataJob:
    return DataJob(spec=spec, source=TaskSource(task=find_task(spec.task)))

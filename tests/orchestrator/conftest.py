"""Small studies, their plans, and manifests as workers would commit them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from known_models import remember_models

from eval.metrics import TaskSums
from orchestrator.cli.command_line import cli
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.study.reader import parse_study
from orchestrator.study.schema import Study
from workers.artifacts.manifests import FileEntry, Manifest
from workers.artifacts.metrics import (
    DataMetrics,
    ExpertMetrics,
    MergeMetrics,
    PretrainMetrics,
    SkippedImages,
    TrainingMetrics,
)
from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec

TASKS = ("emoji_objects", "font_letters", "mnist_5k")
SUMS = TaskSums(num_examples=100, num_correct=80, loss_sum=50.0)
BASE_SUMS = TaskSums(num_examples=100, num_correct=40, loss_sum=150.0)


@pytest.fixture(autouse=True)
def known_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares every test the process that asks timm: a node knows these models already."""
    cache = tmp_path.with_name(f"{tmp_path.name}-node")
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    remember_models(cache)


@pytest.fixture
def study_fields(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes a small study's fields: three tasks, pairs, one method, no axis."""

    def make(**changes: object) -> dict[str, Any]:
        return {
            "name": "small",
            "backbone": {"model": "test_resnet", "weights": "none", "image_size": 32},
            "tasks": list(TASKS),
            "finetune": {"defaults": {"steps": 10, "lr": 0.01, "batch_size": 8}},
            "groups": {"count": 15, "size": 2},
            "merge": [{"method": "average"}],
            "store": str(tmp_path / "store"),
            **changes,
        }

    return make


@pytest.fixture
def make_study(study_fields: Callable[..., dict[str, Any]]) -> Callable[..., Study]:
    """Makes a checked study."""

    def make(**changes: object) -> Study:
        return parse_study(yaml.safe_dump(study_fields(**changes)), source="study.yaml")

    return make


@pytest.fixture
def make_plan(make_study: Callable[..., Study]) -> Callable[..., Plan]:
    """Makes a plan."""

    def make(**changes: object) -> Plan:
        return build_plan(make_study(**changes))

    return make


def training_metrics(
    steps_taken: int, *, curve: tuple[tuple[int, float], ...] = ()
) -> TrainingMetrics:
    return TrainingMetrics(
        train_loss=0.75, train_curve=curve, num_classes=10, steps_taken=steps_taken
    )


@pytest.fixture
def expert_manifest() -> Callable[..., Manifest]:
    """Makes the manifest of an expert; `test` is None for weights that are not finite."""

    def make(
        spec: ExpertSpec,
        *,
        test: TaskSums | None = SUMS,
        base: TaskSums | None = BASE_SUMS,
        outcome: str = "done",
        at_s: float = 1000.0,
        seconds: float = 5.0,
        train_curve: tuple[tuple[int, float], ...] = ((5, 2.0), (10, 1.0)),
    ) -> Manifest:
        file = FileEntry(name="expert.safetensors", size_bytes=4000, sha256="0" * 64)
        metrics = ExpertMetrics(
            training=training_metrics(spec.hyperparameters.steps, curve=train_curve),
            test=test,
            base=base if test else None,
        )
        return _manifest(
            spec,
            kind="expert",
            files=(file,) if test else (),
            outcome=outcome,
            metrics=metrics.to_json(),
            seconds={"trial": seconds},
            created_at_s=at_s,
        )

    return make


@pytest.fixture
def base_manifest() -> Callable[..., Manifest]:
    """Makes the manifest of a pretrained base; without weights it has diverged."""

    def make(spec: BaseSpec, *, has_weights: bool = True, seconds: float = 1.0) -> Manifest:
        file = FileEntry(name="backbone.safetensors", size_bytes=4000, sha256="0" * 64)
        metrics = PretrainMetrics(
            training=training_metrics(7), num_entries=1000, tasks={} if has_weights else None
        )
        return _manifest(
            spec,
            kind="base",
            files=(file,) if has_weights else (),
            outcome="done" if has_weights else "diverged",
            metrics=metrics.to_json(),
            seconds={"pretrain": seconds},
            created_at_s=500.0,
        )

    return make


@pytest.fixture
def merge_manifest() -> Callable[..., Manifest]:
    """Makes the manifest of a merge job with sums per task, the same for all unless given."""

    def make(
        spec: MergeSpec,
        *,
        tasks: Mapping[str, TaskSums] | None = None,
        at_s: float = 2000.0,
        merge_s: float = 0.5,
    ) -> Manifest:
        sums = {expert.task: SUMS for expert in (*spec.experts, *spec.held_out)} | dict(tasks or {})
        return _manifest(
            spec,
            kind="merge",
            files=(),
            outcome="done",
            metrics=MergeMetrics(tasks=sums, coverage=1.0).to_json(),
            seconds={"merge": merge_s, "evaluate": 1.5},
            created_at_s=at_s,
        )

    return make


@pytest.fixture
def all_manifests(
    expert_manifest: Callable[..., Manifest], merge_manifest: Callable[..., Manifest]
) -> Callable[[Plan], list[Manifest]]:
    """Makes the manifests of everything in a plan."""

    def make(plan: Plan) -> list[Manifest]:
        experts = [expert_manifest(spec) for spec in plan.experts.values()]
        return [*experts, *(merge_manifest(spec) for spec in plan.merges.values())]

    return make


@pytest.fixture
def data_manifest() -> Callable[..., Manifest]:
    """Makes the manifest of a task's images, with a number of images that were skipped."""

    def make(spec: DataSpec, *, num_skipped: int = 0) -> Manifest:
        first = tuple(f"{number}.png: is torn" for number in range(num_skipped))
        metrics = DataMetrics(
            num_classes=10,
            num_train=1000,
            num_test=100,
            images_per_shard=99,
            class_counts={"train": (100,) * 10, "test": (10,) * 10},
            shared=None,
            contradictions=None,
            skipped=SkippedImages(num_images=num_skipped, first=first) if num_skipped else None,
        )
        return _manifest(
            spec,
            kind="data",
            files=(),
            outcome="done",
            metrics=metrics.to_json(),
            seconds={},
            created_at_s=400.0,
        )

    return make


def _manifest(spec: BaseSpec | DataSpec | ExpertSpec | MergeSpec, **fields: Any) -> Manifest:  # noqa: ANN401 any field
    made = Manifest(
        id=spec.id,
        version=1,
        spec=spec.to_json(),
        inputs={},
        attempt="0" * 16,
        code_version="0.1.0",
        **fields,
    )
    return Manifest.from_json(made.to_json(), key="made by a test")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Calls the command line in an empty directory of its own."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    return run

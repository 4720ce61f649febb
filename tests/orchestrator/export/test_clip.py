"""Exports of merged CLIP image towers, whose heads are cosine heads of text embeddings."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from eval.evaluate import features_of
from eval.suites import find_task
from eval.task_source import TaskSource
from orchestrator.export.snippet import snippet
from workers.artifacts.metrics import MergeMetrics
from workers.export.model_folder import ModelFolder, TaskImages
from workers.export.models import Machine, export_merge
from workers.merging.merge_job import merged_models, run_merge
from workers.models.backbones import embedding_width
from workers.prepare.bases import prepare_base
from workers.prepare.images import prepare_data
from workers.prepare.zero_shot import prepare_head
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.data import DataJob, DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.head import HeadJob, ZeroShotSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.merge import MergeSpec
from workers.specs.training import TrialSpec
from workers.train.resumable import Timing
from workers.train.trial import run_trial
from workers.workspace import Workspace

MODEL = "vit_xsmall_patch16_clip_224"
TASKS = ("bluemarble_regions", "mnist_5k")
IMAGE_SIZE = 32


class RandomTower:
    """A text tower that knows no language: weights of real ones cannot be had here."""

    logit_scale = 100.0

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns random directions."""
        generator = torch.Generator().manual_seed(len(texts))
        drawn = torch.randn(len(texts), embedding_width(MODEL), generator=generator)
        return nn.functional.normalize(drawn)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Returns a workspace on an empty store."""
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    return Workspace(str(tmp_path / "store"), cache_root=tmp_path / "cache", device=cpu)


def expert_of(task: str, *, base: BaseSpec, workspace: Workspace) -> ExpertSpec:
    """Fine-tunes the tower on a task, under its zero-shot head."""
    about = find_task(task)
    data = DataSpec(
        task=task,
        fingerprint=about.fingerprint,
        image_size=IMAGE_SIZE,
        max_train=16,
        max_test=24,
        evaluate_on="test",
    )
    head = ZeroShotSpec(
        task=task, model="made", weights="none", classes=about.classes, templates=("a {}",)
    )
    list(prepare_data(DataJob(spec=data, source=TaskSource(task=about)), workspace=workspace))
    job = HeadJob(spec=head, path=None)
    prepare_head(job, workspace=workspace, open_tower=lambda *_, **__: RandomTower())
    expert = ExpertSpec(
        task=task,
        base_id=base.id,
        data_id=data.id,
        head_id=head.id,
        hyperparameters=Hyperparameters(
            steps=2, batch_size=8, lr=0.001, data_ratio=1.0, optimizer="sgd", seed=0
        ),
        constants=TrainingConstants(momentum=0.9, freeze_batch_norm=False),
    )
    trial = TrialSpec(longest=expert, snapshots=(2,))
    list(run_trial(trial, workspace=workspace, timing=Timing(report_every_s=1e9)))
    return expert


def answers(folder: Path, *, task: str, images: Path) -> tuple[list[str], Tensor]:
    """Runs the card's program in this process; returns the classes and the last image's logits."""
    code = compile(snippet(has_adapters=False, is_cosine=True), "classify.py", "exec")
    arguments = ["classify.py", str(folder), task, *map(str, sorted(images.iterdir()))]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", arguments)
        exec(code, names := {})
    return out.getvalue().splitlines(), names["logits"][0]


def logits_of_the_last_images(spec: MergeSpec, *, workspace: Workspace) -> dict[str, Tensor]:
    """Returns the study's logits of the last test image of each task."""
    (made,) = merged_models(spec, workspace=workspace)
    backbone, experts = made
    return {
        expert.task: workspace.expert_head(expert.id)(
            features_of(
                backbone.model,
                split=workspace.split(expert.data_id, "test"),
                normalization=backbone.normalization,
                device=workspace.device,
            )[-1:]
        )[0]
        for expert in experts
    }


def test_a_merged_clip_tower_answers_as_it_was_scored(workspace: Workspace, tmp_path: Path) -> None:
    """With its projection, at the size that the study built it for, under cosine heads."""
    base = BaseSpec(model=MODEL, weights="none", seed=0, image_size=IMAGE_SIZE)
    prepare_base(BaseJob(spec=base, path=None), workspace=workspace)
    experts = tuple(expert_of(task, base=base, workspace=workspace) for task in TASKS)
    spec = MergeSpec(
        method="task_arithmetic",
        params={"scaling": 0.5},
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=base.id,
        experts=experts,
        held_out=(),
    )
    recorded = MergeMetrics.from_json(run_merge(spec, workspace=workspace).metrics)
    (tmp_path / "out").mkdir()
    tasks = {task: find_task(task) for task in TASKS}
    images = {
        task: TaskImages(classes=each.classes, channels=each.channels)
        for task, each in tasks.items()
    }
    exported = export_merge(
        spec,
        recorded=recorded,
        folder=ModelFolder(path=tmp_path / "out", image_size=IMAGE_SIZE, images=images),
        machine=Machine(store_url=workspace.artifacts.store.url, num_threads=1, uses_gpu=False),
    )
    assert exported.check == "digest"
    expected_logits = logits_of_the_last_images(spec, workspace=workspace)
    for expert in experts:
        split = workspace.split(expert.data_id, "test")
        folder = tmp_path / expert.task
        folder.mkdir()
        for index, image in enumerate(next(split.batches(len(split))).images):
            pixels = image[..., 0] if image.shape[-1] == 1 else image
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
        expected = [tasks[expert.task].classes[label] for label in split.labels]
        found, logits = answers(tmp_path / "out", task=expert.task, images=folder)
        num_correct = sum(map(str.__eq__, found, expected))
        assert num_correct == recorded.tasks[expert.task].num_correct
        assert torch.allclose(logits, expected_logits[expert.task], rtol=1e-4, atol=1e-4)
        assert float(logits.std()) > 0.1

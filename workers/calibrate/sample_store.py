"""Fills a temporary store with random weights and images for a calibration's samples."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eval.images.shards import shard_name, write_shard
from workers.artifacts.provenance import Provenance
from workers.calibrate.request import CalibrationRequest, ImageSample
from workers.models.backbones import Backbone
from workers.models.tensor_files import write_tensors
from workers.prepare.bases import prepare_base
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.train.trainer import create_head
from workers.train.trainer_state import model_tensors
from workers.workspace import EXPERT_FILE, Workspace

NUM_DISTINCT_EXPERTS = 4
"""Distinct experts of each model. Larger groups repeat them: a merge takes as long, and memory and
disk hold fewer experts."""
NUM_TEST_IMAGES = 8
"""Test images of a task while merges are timed; their evaluation does not count."""
NUM_TRAIN_IMAGES = 256
"""Training images of a task; at least as many as methods with data read by default."""
DELTA = 1e-3
"""Standard deviation of a random task vector's entries."""


@dataclass(kw_only=True)
class SampleStore:
    """The artifacts that samples need, each committed at its first use."""

    request: CalibrationRequest
    workspace: Workspace
    scratch: Path
    file_s: dict[str, float] = field(default_factory=dict)
    """Seconds of writing an expert's file and reading it again, by model, once measured."""
    _base_ids: dict[str, str] = field(default_factory=dict)
    _images: set[str] = field(default_factory=set)
    _experts: dict[tuple[str, bool], list[ExpertSpec]] = field(default_factory=dict)

    def prepare(self, expert: ExpertSpec) -> ExpertSpec:
        """Commits random weights and images if missing; returns the expert with that base."""
        self.prepare_images(expert.data_id)
        return replace(expert, base_id=self.prepare_base(self.request.bases[expert.base_id]))

    def prepare_base(self, base: BaseSpec) -> str:
        """Commits random weights of a base's model if missing; returns their base id."""
        if base.model not in self._base_ids:
            spec = replace(base.initial, weights="none")
            prepare_base(BaseJob(spec=spec, path=None), workspace=self.workspace)
            self._base_ids[base.model] = spec.id
        return self._base_ids[base.model]

    def prepare_images(self, data_id: str) -> None:
        """Commits random images under a data id of the request if missing."""
        if data_id not in self._images:
            _commit_images(data_id, sample=self.request.data[data_id], store=self)
            self._images.add(data_id)

    def experts(self, merge: MergeSpec) -> list[ExpertSpec]:
        """Returns a merge's experts, with random task vectors; holds one in memory at a time."""
        request = self.request
        kind = request.model(merge.experts[0]), merge.linearised
        if kind not in self._experts:
            num_needed = max(
                len(each.experts)
                for each in request.merges
                if (request.model(each.experts[0]), each.linearised) == kind
            )
            count = min(num_needed, NUM_DISTINCT_EXPERTS)
            self._experts[kind] = _make_experts(merge.experts[0], count=count, store=self)
        return self._experts[kind]

    def head(self, spec: ExpertSpec, *, backbone: Backbone) -> nn.Linear:
        """Returns a random classifier for an expert's task."""
        head = create_head(
            backbone.num_features,
            num_classes=self.workspace.num_classes(spec.data_id),
            seed=spec.hyperparameters.seed,
            task=spec.task,
        )
        return head.to(self.workspace.device)


def _make_experts(expert: ExpertSpec, *, count: int, store: SampleStore) -> list[ExpertSpec]:
    spec, workspace = store.prepare(expert), store.workspace
    backbone = workspace.base_backbone(spec.base_id)
    head = store.head(spec, backbone=backbone)
    made = [
        replace(spec, hyperparameters=replace(spec.hyperparameters, seed=number))
        for number in range(count)
    ]
    total_s = 0.0
    for each in made:
        tensors = _with_random_task_vector(
            model_tensors(backbone.module, head),
            trained={f"backbone.{name}" for name, _ in backbone.module.named_parameters()},
            seed=each.hyperparameters.seed,
        )
        started = time.perf_counter()
        _commit_expert(each, tensors=tensors, store=store)
        dict(workspace.expert_tensors(each.id))
        total_s += time.perf_counter() - started
    store.file_s.setdefault(store.request.model(expert), total_s / count)
    return made


def _with_random_task_vector(
    tensors: Mapping[str, Tensor], *, trained: set[str], seed: int
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.detach().cpu() + DELTA * torch.randn(tensor.shape, generator=generator)
        if name in trained
        else tensor
        for name, tensor in tensors.items()
    }


def _commit_expert(spec: ExpertSpec, *, tensors: Mapping[str, Tensor], store: SampleStore) -> None:
    path = store.scratch / EXPERT_FILE
    write_tensors(path, tensors, about={"id": spec.id})
    store.workspace.artifacts.commit(
        Provenance.of(spec, kind="expert", inputs={}),
        files={EXPERT_FILE: path},
        metrics={},
        seconds={},
    )
    path.unlink()


def _commit_images(data_id: str, *, sample: ImageSample, store: SampleStore) -> None:
    generator = np.random.default_rng(0)
    size = sample.spec.image_size
    files = {}
    for split, count in (("train", NUM_TRAIN_IMAGES), ("test", NUM_TEST_IMAGES)):
        name = shard_name(split, 0)
        files[name] = path = store.scratch / name
        write_shard(
            path,
            generator.integers(256, size=(count, size, size, sample.channels), dtype=np.uint8),
            generator.integers(sample.num_classes, size=count),
        )
    store.workspace.artifacts.commit(
        replace(Provenance.of(sample.spec, kind="data", inputs={}), id=data_id),
        files=files,
        metrics={"num_classes": sample.num_classes},
        seconds={},
    )

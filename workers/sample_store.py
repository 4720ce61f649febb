"""What samples of a study's jobs run on: random weights and images, made as they are needed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eval.images import write_split
from eval.tasks import find_task
from workers.backbones import Backbone
from workers.calibration import CalibrationRequest
from workers.fine_tune import create_head
from workers.prepare import prepare_base
from workers.specs import VERSIONS, BaseJob, DataSpec, ExpertSpec, spec_to_json
from workers.tensor_files import write_tensors
from workers.tuning_state import model_tensors
from workers.workspace import BACKBONE_PREFIX, EXPERT_FILE, Workspace

NUM_TEST_IMAGES = 8
"""Of a task while merges are timed, whose evaluation is left out."""
NUM_TRAIN_IMAGES = 256
"""At least what methods that read images ask of a task by default."""
DELTA = 1e-3
"""Standard deviation of a random task vector's entries."""


@dataclass(kw_only=True)
class SampleStore:
    """A throw-away store with random weights and images for samples of a study's jobs."""

    request: CalibrationRequest
    workspace: Workspace
    scratch: Path
    base_ids: dict[str, str] = field(default_factory=dict)
    """The random base that stands for each of the request's, by the latter's id."""
    committed: set[str] = field(default_factory=set)

    def prepare(self, expert: ExpertSpec) -> ExpertSpec:
        """Commits random weights and images where they are missing; returns the spec on them."""
        if expert.base_id not in self.base_ids:
            spec = replace(self.request.bases[expert.base_id], weights="none")
            prepare_base(BaseJob(spec=spec, path=None), workspace=self.workspace)
            self.base_ids[expert.base_id] = spec.id
        if expert.data_id not in self.committed:
            self._commit_images(self.request.data[expert.data_id], artifact_id=expert.data_id)
            self.committed.add(expert.data_id)
        return replace(expert, base_id=self.base_ids[expert.base_id])

    def model(self, expert: ExpertSpec) -> str:
        """Returns the timm model of one of the request's experts."""
        return self.request.bases[expert.base_id].model

    def image_size(self, expert: ExpertSpec) -> int:
        """Returns the height of the images of one of the request's experts."""
        return self.request.data[expert.data_id].image_size

    def head(self, expert: ExpertSpec, *, backbone: Backbone) -> nn.Linear:
        """Returns a fresh classifier of a prepared expert, on the device."""
        head = create_head(
            backbone.num_features,
            num_classes=self.workspace.num_classes(expert.data_id),
            seed=expert.seed,
            task=expert.task,
        )
        return head.to(self.workspace.device)

    def random_expert(self, expert: ExpertSpec) -> Mapping[str, Tensor]:
        """Returns a prepared expert's tensors: the base and a random task vector, drawn anew."""
        backbone = self.workspace.base_backbone(expert.base_id)
        trained = {BACKBONE_PREFIX + name for name, _ in backbone.module.named_parameters()}
        generator = torch.Generator().manual_seed(expert.seed)
        tensors = model_tensors(backbone.module, self.head(expert, backbone=backbone))
        return {
            name: tensor.detach().cpu() + DELTA * torch.randn(tensor.shape, generator=generator)
            if name in trained
            else tensor
            for name, tensor in tensors.items()
        }

    def commit_expert(self, expert: ExpertSpec, *, tensors: Mapping[str, Tensor]) -> None:
        """Commits an expert as a trial does."""
        path = self.scratch / EXPERT_FILE
        write_tensors(path, tensors, about={"id": expert.id})
        self.workspace.artifacts.commit(
            "expert",
            expert.id,
            version=VERSIONS["expert"],
            spec=spec_to_json(expert),
            inputs={},
            files={EXPERT_FILE: path},
            outcome="done",
            metrics={},
            seconds={},
        )
        path.unlink()

    def _commit_images(self, data: DataSpec, *, artifact_id: str) -> None:
        task = find_task(data.task)
        generator = np.random.default_rng(0)
        files = {}
        for name, count in (("train", NUM_TRAIN_IMAGES), ("test", NUM_TEST_IMAGES)):
            shape = (count, data.image_size, data.image_size, task.channels)
            files[f"{name}.arrow"] = path = self.scratch / f"{name}.arrow"
            write_split(
                path,
                generator.integers(256, size=shape, dtype=np.uint8),
                generator.integers(task.num_classes, size=count),
            )
        self.workspace.artifacts.commit(
            "data",
            artifact_id,
            version=VERSIONS["data"],
            spec=spec_to_json(data),
            inputs={},
            files=files,
            outcome="done",
            metrics={"num_classes": task.num_classes},
            seconds={},
        )

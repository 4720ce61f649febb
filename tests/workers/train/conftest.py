"""A training with steps of microseconds."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from eval.images.split import Split
from eval.model_inputs import Normalization
from workers.models.backbones import Backbone
from workers.specs.expert import ExpertSpec
from workers.train.trainer import Trainer, create_head

TRAIN = Split(
    images=np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8),
    labels=np.arange(12) % 3,
)


@pytest.fixture
def start(make_expert: Callable[..., ExpertSpec]) -> Callable[[], Trainer]:
    """Returns a function that creates a trainer of one layer with momenta, six images a step."""

    def start() -> Trainer:
        spec = make_expert(batch_size=6, steps=10)
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        backbone = Backbone(
            module=module.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            num_features=16,
            normalization=Normalization(mean=(0.5,) * 3, std=(0.5,) * 3),
        )
        head = create_head(16, num_classes=3, seed=spec.hyperparameters.seed, task=spec.task)
        device = torch.device("cpu")
        return Trainer(spec=spec, backbone=backbone, head=head, train=TRAIN, device=device)

    return start

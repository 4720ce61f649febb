import subprocess
import sys

import pytest

pytest.importorskip("peft")

_IN_A_WORKER = """
from workers.without_compiler import without_compiler

with without_compiler():
    import workers.process

import torch
from workers.models.backbones import create_backbone
from workers.models.lora.injected import adapted_backbone
from workers.specs.hyperparameters import Hyperparameters

cpu = torch.device("cpu")
point = Hyperparameters(
    steps=1, batch_size=1, lr=0.1, data_ratio=1.0, optimizer="sgd", seed=0, lora_rank=2
)
found = adapted_backbone(create_backbone("test_vit", seed=0, device=cpu), point, device=cpu)
assert len(found.layers) == 2 * len(found.backbone.module.blocks)
"""


def test_process_of_a_worker_can_load_peft() -> None:
    """Workers load torch without its compiler, which transformers then needs."""
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_WORKER], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

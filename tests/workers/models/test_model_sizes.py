from pathlib import Path

import pytest
import torch

from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.models.backbones import create_backbone
from workers.models.model_sizes import ModelSize, cache_sizes, model_sizes
from workers.train.trainer import create_head
from workers.train.trainer_state import model_tensors

MODELS = ["test_resnet", "test_vit", "tf_efficientnet_lite0"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets an empty node cache and returns its directory."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.mark.slow
def test_sizes_equal_those_of_built_models(own_cache: Path) -> None:
    """Sizes include backbone and head, unknown models are left out, and the cache keeps sizes."""
    found = model_sizes([*MODELS, "no_such_model"])
    assert sorted(found) == MODELS
    for model, size in found.items():
        backbone = create_backbone(model, seed=0, device=torch.device("cpu"))
        head = create_head(backbone.num_features, num_classes=7, seed=0, task="any")
        tensors = model_tensors(backbone.module, head).values()
        assert size.expert_bytes(num_classes=7) == sum(tensor.nbytes for tensor in tensors)
        assert size.num_parameters == sum(each.numel() for each in backbone.module.parameters())
    (kept,) = own_cache.glob("model-sizes-timm-*.json")
    assert "test_vit" in kept.read_text()
    lite0 = ModelSize(
        num_parameters=3371008,
        parameter_bytes=13484032,
        state_bytes=13652488,
        num_features=1280,
        flops_per_pixel=15302.4375,
    )
    assert found["tf_efficientnet_lite0"] == lite0
    resnet = ModelSize(
        num_parameters=372688,
        parameter_bytes=1490752,
        state_bytes=1499192,
        num_features=96,
        flops_per_pixel=8004.0,
    )
    assert found["test_resnet"] == resnet


def test_cached_sizes_need_no_subprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second plan of the same study starts no subprocess."""
    size = ModelSize(
        num_parameters=1, parameter_bytes=4, state_bytes=8, num_features=2, flops_per_pixel=1.0
    )
    cache_sizes({"known": size})
    monkeypatch.setattr("subprocess.run", None)
    assert model_sizes(["known"]) == {"known": size}
    assert size.expert_bytes(num_classes=3) == 8 + 4 * 3 * 3

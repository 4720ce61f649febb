import pytest
import torch

from workers.models.backbones import create_backbone
from workers.models.pretrained_weights import WeightsError

CPU = torch.device("cpu")
MODEL = "test_efficientnet"


@pytest.mark.parametrize(
    "model",
    [
        *["test_byobnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_nfnet"],
        *["test_resnet", "test_vit", "mobilenetv3_small_050"],
    ],
)
def test_head_fits_the_features_of_the_backbone(model: str) -> None:
    """`num_features` is right even if the model widens its features before the classifier."""
    backbone = create_backbone(model, seed=0, device=CPU)
    backbone.module.eval()
    with torch.inference_mode():
        assert backbone.module(torch.zeros(1, 3, 32, 32)).shape == (1, backbone.num_features)


def test_random_weights_depend_on_the_seed_alone() -> None:
    """Weights do not depend on earlier random numbers of the process, nor change later ones."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = (
        create_backbone(MODEL, seed=seed, device=CPU).module.state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["conv_stem.weight"], other["conv_stem.weight"])


def test_inputs_are_normalized_as_the_model_was_pretrained() -> None:
    """Timm has 0.5 for EfficientNet-Lite, and ImageNet's numbers for the other model."""
    lite = create_backbone("tf_efficientnet_lite0", seed=0, device=CPU).normalization
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)
    tiny = create_backbone(MODEL, seed=0, device=CPU).normalization
    assert tiny.mean == (0.485, 0.456, 0.406)
    assert tiny.std == (0.229, 0.224, 0.225)


def test_unknown_model_is_refused_with_similar_names() -> None:
    """The message for a mistyped name has similar names."""
    with pytest.raises(WeightsError, match=r"'resnet18x'; similar names: .*resnet"):
        create_backbone("resnet18x", seed=0, device=CPU)

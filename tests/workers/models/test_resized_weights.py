import pytest
import timm
import torch

from workers.models.pretrained_weights import WeightsError
from workers.models.resized_weights import resize_weights

VIT = "vit_tiny_patch16_224"


def test_positions_are_interpolated_and_nothing_else_changes() -> None:
    """Timm loads a checkpoint of the model's own size into a smaller model with the same result."""
    whole = timm.create_model(VIT, num_classes=0)
    resized = resize_weights(whole.state_dict(), model=VIT, image_size=64)
    assert resized["pos_embed"].shape == (1, 17, 192)
    for name, tensor in whole.state_dict().items():
        assert name == "pos_embed" or torch.equal(resized[name], tensor)
    model = timm.create_model(VIT, num_classes=0, img_size=64)
    model.load_state_dict(resized)
    assert torch.isfinite(model(torch.zeros(1, 3, 64, 64))).all()


def test_weights_of_the_own_size_stay_the_same_bits() -> None:
    """A model that is built for its own size keeps every tensor."""
    whole = timm.create_model(VIT, num_classes=0).state_dict()
    resized = resize_weights(whole, model=VIT, image_size=224)
    assert all(torch.equal(resized[name], tensor) for name, tensor in whole.items())


def test_layers_that_mix_positions_cannot_be_interpolated() -> None:
    """The matrix of a mixer has a row for each position, and timm has no rule for that."""
    whole = timm.create_model("gmixer_12_224", num_classes=0).state_dict()
    with pytest.raises(WeightsError, match="cannot interpolate the weights of gmixer_12_224 to 64"):
        resize_weights(whole, model="gmixer_12_224", image_size=64)

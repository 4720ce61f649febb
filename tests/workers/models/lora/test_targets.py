import re

import pytest
import timm
from torch import nn

from workers.models.lora.targets import TargetsError, adaptable_layers, target_layers


@pytest.mark.parametrize(
    ("model", "targets", "expected"),
    [
        ("test_vit", "auto", r"blocks\.\d+\.attn\.(qkv|proj)"),
        ("test_vit", "qkv", r"blocks\.\d+\.attn\.qkv"),
        ("test_vit", "blocks.0.*, fc1", r"blocks\.0\..*|.*\.fc1"),
        (
            "test_efficientnet",
            "auto",
            r".*(conv_pw|conv_pwl|conv_head|conv_reduce|conv_expand|conv)",
        ),
        ("test_resnet", "layer1.0.conv2", r"layer1\.0\.conv2"),
    ],
)
def test_targets_select_the_layers_that_they_name(model: str, targets: str, expected: str) -> None:
    """Every adaptable layer whose name has the form is selected, in the module's order."""
    module = timm.create_model(model, num_classes=0)
    able = list(adaptable_layers(module))
    found = target_layers(module, targets=targets)
    assert found
    assert all(re.fullmatch(expected, name) for name in found)
    assert list(found) == [name for name in able if name in found]


def test_names_select_ends_after_a_dot_only() -> None:
    """`conv` does not select `my_conv`, and `conv1` selects the layer of that name at any depth."""
    module = nn.ModuleDict({"conv1": nn.Linear(2, 2), "my_conv1": nn.Linear(2, 2)})
    module["inner"] = nn.ModuleDict({"conv1": nn.Linear(2, 2)})
    assert target_layers(module, targets="conv1") == ("conv1", "inner.conv1")


def test_model_of_wide_convolutions_has_adapters_in_all_of_them() -> None:
    """The matrices of a ResNet-18 are three of its twenty layers, and hold 2 % of the weights."""
    module = timm.create_model("resnet18", num_classes=0)
    assert target_layers(module, targets="auto") == target_layers(module, targets="all")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(4),
    ],
)
def test_layers_whose_adapter_is_no_change_of_their_weights_have_none(layer: nn.Module) -> None:
    """Peft would adapt these with other products than a change of the stored weights."""
    module = nn.Sequential(nn.Conv2d(4, 4, 3), layer)
    assert target_layers(module, targets="all") == ("0",)


def test_layers_that_share_weights_have_no_adapter() -> None:
    """One adapter in one of two places would make two weights of one."""
    shared = nn.Linear(3, 3)
    module = nn.Sequential(shared, shared, nn.Linear(3, 3))
    module[1] = nn.Linear(3, 3)
    module[1].weight = shared.weight
    assert list(adaptable_layers(module)) == ["2"]


def test_name_that_selects_nothing_is_refused_with_those_that_would() -> None:
    """A typing error never leaves a layer out in silence."""
    module = timm.create_model("test_vit", num_classes=0)
    with pytest.raises(TargetsError, match=r"'kqv' selects no layer.*qkv, fc1, fc2"):
        target_layers(module, targets="kqv, proj")

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from workers.models.backbones import create_backbone
from workers.models.memory_layout import lay_out, unsafe_convolutions

CPU = torch.device("cpu")
BACKWARD = """
import torch
from torch import nn
from workers.models.memory_layout import lay_out

module = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2, bias=False))
module = lay_out(module, device=torch.device('cpu'))
images = torch.randn(2, 3, 224, 224).contiguous(memory_format=torch.channels_last)
for _ in range(20):
    module(images).sum().backward()
"""


def conv(channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, 48, kernel, stride=stride, groups=groups, bias=False)


def test_strided_1x1_convolutions_of_few_channels_keep_the_default_layout() -> None:
    """Both their weights and the inputs that they get; layers after them are as fast as before."""
    unsafe, safe = conv(3, 1, stride=2), conv(48, 3)
    module = lay_out(nn.Sequential(unsafe, safe), device=CPU)
    seen: list[Tensor] = []
    unsafe.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    module(torch.ones(2, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    assert seen[0].stride() == torch.ones(2, 3, 8, 8).stride()
    assert unsafe.weight.stride() == (3, 1, 1, 1)
    assert safe.weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(unsafe.weight, nn.Parameter)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (conv(3, 1, stride=2), True),
        (conv(15, 1, stride=3), True),
        (nn.Conv2d(8, 4, 1, stride=(1, 2)), True),
        (conv(16, 1, stride=2), False),
        (conv(3, 1), False),
        (conv(3, 3, stride=2), False),
        (conv(48, 1, stride=2, groups=48), False),
    ],
)
def test_only_these_layers_are_unsafe(layer: nn.Conv2d, expected: bool) -> None:  # noqa: FBT001
    """Other kernels, 16 channels or more, and channels by themselves were safe at every size."""
    assert unsafe_convolutions(nn.Sequential(layer)) == ([layer] if expected else [])


@pytest.mark.parametrize("model", ["resnet18", "test_vit", "tf_efficientnet_lite0"])
def test_ordinary_models_stay_channels_last(model: str) -> None:
    """Their results keep their bits."""
    module = create_backbone(model, seed=0, device=CPU).module
    kernels = [each for each in module.parameters() if each.ndim == 4]
    assert kernels
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in kernels)
    assert not any(each._forward_pre_hooks for each in module.modules())


@pytest.mark.slow
def test_gradients_of_an_unsafe_layer_do_not_crash() -> None:
    """In channels-last layout, the process ends by a signal on processors with AVX-512."""
    assert subprocess.run([sys.executable, "-c", BACKWARD], check=False).returncode == 0

"""Makes random models of several architectures, as state dicts: a base and three experts."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

NUM_EXPERTS = 3
STATISTICS = ("running_mean", "running_var")
DEVIATION = 0.05
"""Standard deviation of task vectors, about a hundred times that of fine-tuning. Sums of weights of
order one are rounded at 1e-7, which must be small beside the compared differences."""

State = dict[str, Tensor]


@cache
def base_and_experts(architecture: str) -> tuple[State, list[State]]:
    """Returns random weights that are the same in every run; counters differ between experts."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = {
            name: _initial(name, tensor=tensor, generator=generator)
            for name, tensor in ARCHITECTURES[architecture]().state_dict().items()
        }
    shared = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    experts = [
        {
            name: _tuned(tensor, name=name, shared=shared[name], index=index, generator=generator)
            for name, tensor in base.items()
        }
        for index in range(NUM_EXPERTS)
    ]
    return base, experts


def is_statistic(name: str) -> bool:
    """Returns whether a tensor is a running statistic."""
    return name.endswith(STATISTICS)


def weights_of(state: State) -> State:
    """Returns the weights without running statistics and counters."""
    return {
        name: tensor
        for name, tensor in state.items()
        if tensor.is_floating_point() and not is_statistic(name)
    }


def _initial(name: str, *, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if is_statistic(name):
        return 0.5 + torch.rand(tensor.shape, generator=generator)
    if tensor.is_floating_point():
        # Layers that start at zero or one would hide changes of the base.
        return tensor + DEVIATION * torch.randn(tensor.shape, generator=generator)
    return tensor.clone()


def _tuned(
    tensor: Tensor, *, name: str, shared: Tensor, index: int, generator: torch.Generator
) -> Tensor:
    if not tensor.is_floating_point():
        return tensor + 1000 * (index + 1)
    # A shared part gives task vectors a cosine of 0.64; Model Stock needs positive cosines.
    own = torch.randn(tensor.shape, generator=generator)
    noise = DEVIATION * (0.8 * shared + 0.6 * own)
    return tensor + (noise.abs() if is_statistic(name) else noise)


def _group_norm(channels: int, **options: Any) -> nn.Module:  # noqa: ANN401 device and dtype
    return nn.GroupNorm(4, channels, **options)


def _small_resnet(norm: Callable[..., nn.Module]) -> nn.Module:
    return ResNet(
        BasicBlock, layers=(1, 1, 1, 1), channels=(8, 16, 32, 64), num_classes=0, norm_layer=norm
    )


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "small_resnet": lambda: _small_resnet(nn.BatchNorm2d),
    "small_resnet_groupnorm": lambda: _small_resnet(_group_norm),
    "small_vit": lambda: VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0
    ),
    "one_layer": lambda: nn.Linear(48, 32, bias=False),
    "resnet18": lambda: cast("nn.Module", timm.create_model("resnet18", num_classes=0)),
}

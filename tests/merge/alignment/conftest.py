"""Small networks whose vectors differ from channel to channel, and shuffled copies of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch

from merge.alignment.aligned import AlignedState
from merge.alignment.architectures import specification_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from merge.weight import State

_SHALLOW = {"img_size": 32, "depth": 2, "embed_dim": 192, "num_heads": 3, "mlp_ratio": 2}
SMALL: dict[str, dict[str, Any]] = {
    # The stem is 64 wide whatever the rest is: its stream goes on through an identity shortcut.
    "basic": {"model_name": "resnet18", "channels": (64, 16, 24, 32)},
    "bottleneck": {"model_name": "resnet26", "channels": (8, 12, 16, 20)},
    "vit": {"model_name": "vit_tiny_patch16_224", **_SHALLOW},
    "scaled vit": {"model_name": "deit3_small_patch16_224", **_SHALLOW},
}
"""One network of each kind that can be aligned, narrower or shallower than those in use."""


@pytest.fixture(params=SMALL)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Makes each of the small networks in turn."""
    return make_network(**SMALL[request.param])


@pytest.fixture(params=SMALL)
def strangers(request: pytest.FixtureRequest) -> tuple[State, State]:
    """Makes two unrelated states of each of the small networks."""
    first, second = (make_network(**SMALL[request.param], seed=seed) for seed in (0, 1))
    return first.state_dict(), second.state_dict()


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    """Makes a backbone with random values; its vectors and statistics are not zeros and ones."""
    return make_network


def make_network(*, seed: int = 0, **kwargs: Any) -> nn.Module:  # noqa: ANN401 timm's own
    module: nn.Module = timm.create_model(num_classes=0, **kwargs).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                fan_in = tensor[0].numel()
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
    return module


@pytest.fixture
def shuffled() -> Callable[[State, int], State]:
    """Permutes all groups of a state at random."""

    def shuffle(state: State, seed: int) -> State:
        specification = specification_of(state)
        generator = torch.Generator().manual_seed(seed)
        permutations = {
            group: torch.randperm(size, generator=generator)
            for group, size in specification.sizes.items()
        }
        return AlignedState(state=state, specification=specification, permutations=permutations)

    return shuffle


@pytest.fixture
def noisy() -> Callable[..., dict[str, Tensor]]:
    """Adds noise to all floats of a state, in units of each tensor's standard deviation."""

    def add(state: State, *, noise_frac: float, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: tensor
            + noise_frac * tensor.std() * torch.randn(tensor.shape, generator=generator)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in state.items()
        }

    return add

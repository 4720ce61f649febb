"""Small states and the ways to merge them that the tests of merging share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from merge.merge import merge
from merge.weight import Weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merge.parameters.method_params import MethodParams


@pytest.fixture
def tensors() -> Callable[..., dict[str, Tensor]]:
    """Makes a state of float32 tensors out of nested lists."""

    def make(**values: list[float]) -> dict[str, Tensor]:
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}

    return make


@pytest.fixture
def merged_lists() -> Callable[..., dict[str, list[float]]]:
    """Merges and returns every tensor as a list."""

    def run(
        base: dict[str, Tensor],
        experts: list[dict[str, Tensor]],
        *,
        params: MethodParams,
        seed: int = 0,
    ) -> dict[str, list[float]]:
        return {
            name: tensor.tolist() for name, tensor in merge(base, experts, params=params, seed=seed)
        }

    return run


@pytest.fixture
def weight() -> Callable[..., Weight]:
    """Makes one weight called w out of lists, the base's at zero unless given."""

    def make(*experts: list[float], base: list[float] | None = None, name: str = "w") -> Weight:
        zeros = [0.0] * len(experts[0])
        return Weight(
            name=name,
            base_state={name: torch.tensor(base or zeros)},
            expert_states=[{name: torch.tensor(expert)} for expert in experts],
        )

    return make

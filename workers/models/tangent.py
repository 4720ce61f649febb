"""Linearised backbones: the first-order Taylor expansion of a model in its weights, at the base.

A linearised expert stores weights like any other expert; only its specification says that it is
linearised. Evaluations of linearised experts and of their merges use the expansion at the weights.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.models.tied_weights import own_state


class Tangent(nn.Module):
    """The expansion f(x; base) + J(x; base) (weights - base) at the current weights of a module.

    Gradients flow to the parameters of the module. Running statistics and other buffers are always
    those of the base. Training mode, which dropout depends on, is the mode of the module.

    Source: Ortiz-Jimenez 2023, Task Arithmetic in the Tangent Space, arXiv:2305.12827, equation 5.
    """

    def __init__(self, module: nn.Module, *, base: Mapping[str, Tensor]) -> None:
        """Copies the base's tensors to the module's device.

        Args:
            module: The module; every forward pass uses its current weights.
            base: All tensors of the module at the point of expansion, as `own_state` names them.
        """
        super().__init__()
        load_forward_derivatives()
        self.module = module
        self._base_weights = {
            name: torch.empty_like(weight).copy_(base[name])
            for name, weight in module.named_parameters()
        }
        self._base_buffers = {
            name: torch.empty_like(buffer).copy_(base[name])
            for name, buffer in own_state(module).items()
            if name not in self._base_weights
        }

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the features of the expansion.

        Attention runs unfused, because fused kernels have no forward derivative.

        Shapes:
            inputs, returns: as in the module.
        """

        def features(weights: dict[str, Tensor]) -> Tensor:
            at_base: Tensor = functional_call(
                self.module, {**weights, **self._base_buffers}, (inputs,)
            )
            return at_base

        moved = {
            name: weight - self._base_weights[name]
            for name, weight in self.module.named_parameters()
        }
        with sdpa_kernel(SDPBackend.MATH):
            at_base, change = jvp(features, (self._base_weights,), (moved,))[:2]
        return at_base + change  # type: ignore[no-any-return]


def load_forward_derivatives() -> None:
    """Makes torch load its forward derivatives, and suppresses its warning about TorchScript."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]

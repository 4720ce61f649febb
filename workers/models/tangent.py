"""Linearised backbones: a model's first-order expansion in its weights, at the base.

A linearised expert stores weights as any other; its specification says that they are to be read so.
What is evaluated, of experts and of merges of them, is the expansion at these weights.
"""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel


class Tangent(nn.Module):
    """A module's expansion f(x; base) + J(x; base) (weights - base), in the module's own weights.

    Its gradients are those of the module's parameters. Running statistics and other buffers are the
    base's, whatever the module's are; training mode, for dropout, is the module's.

    Source: Ortiz-Jimenez 2023, Task Arithmetic in the Tangent Space, arXiv:2305.12827, equation 5.
    """

    def __init__(self, module: nn.Module, *, base: Mapping[str, Tensor]) -> None:
        """Expands a module.

        Args:
            module: Where the weights are, those of now and of later.
            base: All its tensors at the point of expansion, by name; copied to its device.
        """
        super().__init__()
        _load_forward_derivatives()
        self.module = module
        self._weights = {
            name: torch.empty_like(weight).copy_(base[name])
            for name, weight in module.named_parameters()
        }
        self._buffers_there = {
            name: torch.empty_like(buffer).copy_(base[name])
            for name, buffer in module.state_dict().items()
            if name not in self._weights
        }

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the expansion's features.

        Attention is computed by its formula: fused kernels have no forward derivative.

        Shapes:
            inputs, returns: the module's.
        """

        def features(weights: dict[str, Tensor]) -> Tensor:
            there: Tensor = functional_call(
                self.module, {**weights, **self._buffers_there}, (inputs,)
            )
            return there

        moved = {
            name: weight - self._weights[name] for name, weight in self.module.named_parameters()
        }
        with sdpa_kernel(SDPBackend.MATH):
            there, change = jvp(features, (self._weights,), (moved,))[:2]
        return there + change  # type: ignore[no-any-return]


def _load_forward_derivatives() -> None:
    """Makes torch load some of its own, without its warning that they are TorchScript."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]

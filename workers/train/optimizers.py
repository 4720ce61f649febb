"""The optimizers, and sharpness-aware minimization around any of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.specs.training import OptimizerSpec

ADAM_SECOND_DECAY = 0.999
TINY_NORM = 1e-12
"""Keeps a gradient of zero from being divided by its norm."""


def create_optimizer(
    spec: OptimizerSpec, *, parameters: Sequence[nn.Parameter], lr: float
) -> torch.optim.Optimizer:
    """Creates an optimizer over parameters, fused into one kernel."""
    if spec.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
            nesterov=spec.nesterov,
            fused=True,
        )
    adam = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    betas = (spec.momentum, ADAM_SECOND_DECAY)
    return adam(parameters, lr=lr, betas=betas, weight_decay=spec.weight_decay, fused=True)


@contextmanager
def climbed(parameters: Sequence[nn.Parameter], *, rho: float) -> Iterator[None]:
    """Moves weights along their gradient to a distance, and back to the same bits on leaving.

    The gradient of the loss there is the sharpness-aware one of the weights here.

    Args:
        parameters: With the loss's gradients, which are dropped once the weights have moved.
        rho: Distance in the 2-norm over all parameters together; a gradient of zero moves nothing.

    Source: Foret 2021, Sharpness-Aware Minimization, arXiv:2010.01412, equation 2 with p = 2.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    before = [parameter.detach().clone() for parameter in moved]
    gradients = [_gradient(parameter) for parameter in moved]
    norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    scale = rho / (torch.linalg.vector_norm(norms) + TINY_NORM)
    with torch.no_grad():
        for parameter, gradient in zip(moved, gradients, strict=True):
            parameter.addcmul_(gradient, scale)
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(moved, before, strict=True):
                parameter.copy_(kept)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad

"""Creates optimizers, and perturbs weights for sharpness-aware minimization (SAM)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.without_compiler import without_compiler

ADAM_SECOND_DECAY = 0.999
TINY_NORM = 1e-12
"""Added to the gradient's norm, so that a gradient of zero is not divided by zero."""


def create_optimizer(
    hyperparameters: Hyperparameters,
    *,
    constants: TrainingConstants,
    parameters: Sequence[nn.Parameter],
) -> torch.optim.Optimizer:
    """Creates an optimizer that updates all parameters in one fused kernel."""
    with without_compiler():
        return _optimizer(hyperparameters, constants=constants, parameters=parameters)


def _optimizer(
    hyperparameters: Hyperparameters,
    *,
    constants: TrainingConstants,
    parameters: Sequence[nn.Parameter],
) -> torch.optim.Optimizer:
    lr, weight_decay = hyperparameters.lr, hyperparameters.weight_decay
    if hyperparameters.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=constants.momentum,
            weight_decay=weight_decay,
            nesterov=constants.nesterov,
            fused=True,
        )
    adam = torch.optim.Adam if hyperparameters.optimizer == "adam" else torch.optim.AdamW
    betas = (constants.momentum, ADAM_SECOND_DECAY)
    return adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


@contextmanager
def perturbed_by_gradient(parameters: Sequence[nn.Parameter], *, rho: float) -> Iterator[None]:
    """Moves weights along their gradient inside the `with` block, then restores their bits.

    The gradient that the block computes at the moved weights is the sharpness-aware gradient of
    the original weights.

    Args:
        parameters: Weights with the loss's gradients. The gradients are dropped after the move.
        rho: Distance of the move in the 2-norm over all parameters together. A gradient of zero
            moves nothing.

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

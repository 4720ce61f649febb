from collections.abc import Callable

import pytest
import torch
from torch import nn

from workers.specs.expert import ExpertSpec
from workers.train.optimizers import create_optimizer, perturbed_by_gradient


def weights(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_nesterov_reaches_sgd(make_expert: Callable[..., ExpertSpec]) -> None:
    """The first step is (1 + momentum) times the gradient; plain SGD's is the gradient."""
    spec = make_expert(lr=0.1, momentum=0.5, nesterov=True)
    parameter = weights(1.0)
    optimizer = create_optimizer(
        spec.hyperparameters, constants=spec.constants, parameters=[parameter]
    )
    parameter.grad = torch.tensor([2.0])
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.1 * 2 * 1.5)


def test_perturbation_is_along_the_gradient_over_all_weights_together() -> None:
    """By hand: gradients (3, 0) and (4) have norm 5 together, so a radius of 1 scales by 1/5."""
    first, second, untouched = weights(1.0, 1.0), weights(2.0), weights(7.0)
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    with perturbed_by_gradient([first, second, untouched], rho=1.0):
        assert first.tolist() == pytest.approx([1.6, 1.0])
        assert second.tolist() == pytest.approx([2.8])
        assert untouched.tolist() == [7.0]
        assert first.grad is None


def test_weights_are_restored_to_the_bit() -> None:
    """Subtracting the perturbation would leave rounding errors."""
    parameter = weights(0.1, 1e-7, 3e7)
    before = parameter.detach().clone()
    parameter.grad = torch.tensor([1.0, 1.0, 1e-3])
    with perturbed_by_gradient([parameter], rho=0.3):
        assert not torch.equal(parameter, before)
    assert torch.equal(parameter, before)


def test_gradient_of_zero_moves_nothing() -> None:
    """There is no direction to move in, and no NaN."""
    parameter = weights(1.0)
    parameter.grad = torch.zeros(1)
    with perturbed_by_gradient([parameter], rho=0.5):
        assert parameter.tolist() == [1.0]

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from workers.models.linear_probe import fit_probe

NUM_CLASSES = 3
LABELS = np.arange(60) % NUM_CLASSES


def features() -> Tensor:
    """Returns features that separate the classes imperfectly."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 8, generator=generator)
    return noise + functional.one_hot(torch.from_numpy(LABELS), 8).float() * 2 + 5


def fitted(given: Tensor, *, l2: float = 1.0) -> torch.nn.Linear:
    return fit_probe(given, labels=LABELS, num_classes=NUM_CLASSES, l2=l2)


def test_fit_minimizes_the_penalized_loss() -> None:
    """The gradient is zero for features that are centred and scaled to a norm of 1."""
    given, l2 = features().double(), 0.7
    probe = fitted(given.float(), l2=l2)
    centred = given - given.mean(dim=0)
    scale = centred.square().sum(dim=1).mean().sqrt()
    weight = (probe.weight.detach().double() * scale).requires_grad_()
    shift = probe.bias.detach().double() + probe.weight.detach().double() @ given.mean(dim=0)
    bias = shift.requires_grad_()
    logits = centred / scale @ weight.T + bias
    labels = torch.from_numpy(LABELS)
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    (loss + l2 / 2 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-3
    assert float(bias.grad.abs().max()) < 1e-3
    assert float(loss.detach()) < 60 * np.log(3) * 0.9


def test_scale_and_origin_of_the_features_change_no_logit() -> None:
    """The same penalty therefore works for all backbones."""
    given = features()
    moved = given * 100 - 7
    expected = fitted(given)(given).detach()
    torch.testing.assert_close(fitted(moved)(moved).detach(), expected, rtol=1e-3, atol=1e-3)


def test_smaller_penalty_fits_closer() -> None:
    """The largest penalty gives the class frequencies, and smaller ones a smaller loss."""
    labels = torch.from_numpy(LABELS)
    losses = [
        float(functional.cross_entropy(fitted(features(), l2=l2)(features()), labels).detach())
        for l2 in (1e6, 10.0, 0.1, 0.001)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(np.log(3), abs=1e-3)


def test_two_fits_are_the_same_bits() -> None:
    """The random state of the process does not affect the fit."""
    torch.manual_seed(0)
    first = fitted(features())
    torch.manual_seed(1)
    second = fitted(features())
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.weight.dtype == torch.float32


def test_equal_features_give_the_class_frequencies() -> None:
    """Features without any spread, as of a single image, cannot be scaled."""
    probe = fitted(torch.ones(60, 4))
    chances = probe(torch.ones(1, 4)).softmax(dim=1)
    torch.testing.assert_close(chances, torch.full((1, 3), 1 / 3))


def test_class_without_an_image_stays_finite() -> None:
    """A small training subset may lack a class."""
    probe = fit_probe(features(), labels=LABELS, num_classes=5, l2=1.0)
    assert bool(torch.isfinite(probe(features())).all())

"""Linear probes: classifiers that are fitted to features by L-BFGS."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

MAX_ITERATIONS = 500
GRADIENT_TOLERANCE = 1e-6
"""A fit ends when no entry of the gradient of the mean loss is larger, in nats for features of
norm 1."""
HISTORY = 10
"""Pairs of steps and gradients that L-BFGS keeps; each is as large as the classifier."""


def fit_probe(
    features: Tensor, *, labels: npt.NDArray[np.int64], num_classes: int, l2: float
) -> nn.Linear:
    """Fits a multinomial logistic regression by L-BFGS in float64, starting from zero.

    The fit minimizes the sum of the images' cross-entropies plus `l2 / 2` times the sum of the
    squared weights; the bias has no penalty. The features are centred and scaled to a mean squared
    norm of 1 first, so that the penalty does not depend on the backbone's scale and width. A
    penalty of 1 is a standard normal prior on each weight, under which the logits of an average
    image have variance 1.

    Shapes:
        features: (images, features), on any device; the fit runs there.
        labels: (images,).
        returns: a map of (batch, features) to (batch, num_classes), in float32, for features that
            are neither centred nor scaled.
    """
    exact = features.double()
    mean = exact.mean(dim=0)
    exact = exact - mean
    scale = exact.square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    exact /= scale
    expected = torch.from_numpy(labels.copy()).to(features.device)
    weight, bias = _minimum(exact, expected=expected, num_classes=num_classes, l2=l2)
    head = nn.Linear(features.shape[1], num_classes, device=features.device)
    with torch.no_grad():
        head.weight.copy_(weight / scale)
        head.bias.copy_(bias - (weight / scale) @ mean)
    return head


@torch.enable_grad()
def _minimum(
    features: Tensor, *, expected: Tensor, num_classes: int, l2: float
) -> tuple[Tensor, Tensor]:
    weight = features.new_zeros(num_classes, features.shape[1]).requires_grad_()
    bias = features.new_zeros(num_classes).requires_grad_()
    search = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=0.0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        logits = features @ weight.T + bias
        penalty = l2 / (2 * len(features)) * weight.square().sum()
        value = nn.functional.cross_entropy(logits, expected) + penalty
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()

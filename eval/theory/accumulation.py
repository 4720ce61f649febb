"""Accumulation vectors: how much each step's gradient counts in the weights at the end.

For an optimizer that is linear in its gradients, `x_K - x_0 = -lr sum_k a[k] g_k + pull x_0`. One
recurrence runs the unit impulses of all steps at once, so that schedules, momentum, decay and
averages combine freely. The closed forms of each alone are in the tests.

Source: Wang 2020 (FedNova), arXiv:2007.07481, section 3. The rows for Adam, SWA and EMA are derived
here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Accumulation:
    """The accumulation vector of one expert.

    Shapes: `entries` and `inner` (K,) for K steps. Units: multiples of the peak learning rate.
    """

    entries: Vector
    """`a` of the stored weights: of their average, where weights are averaged."""
    inner: Vector
    """`a` of the last step's weights, without averaging; it is used for the drift of training."""
    pull: float = 0.0
    """The share of `x_0` that weight decay adds to the displacement; 0 or negative."""

    @property
    def total(self) -> float:
        """`A`, the sum of the entries."""
        return float(self.entries.sum())

    @property
    def sum_of_squares(self) -> float:
        """`|a|^2`."""
        return float(self.entries @ self.entries)

    @property
    def largest(self) -> float:
        """The largest entry of the inner vector; 0 without steps."""
        return float(self.inner.max(initial=0.0))

    @property
    def inner_total(self) -> float:
        """The sum of the inner vector's entries."""
        return float(self.inner.sum())

    @property
    def inner_sum_of_squares(self) -> float:
        """The sum of the squares of the inner vector's entries."""
        return float(self.inner @ self.inner)

    @property
    def inner_last(self) -> float:
        """The inner vector's last entry; 0 without steps."""
        return float(self.inner[-1]) if self.inner.size else 0.0

    @property
    def is_plain(self) -> bool:
        """Whether it is plain SGD's at a constant rate: all ones, up to averaging."""
        return bool(np.all(self.inner == 1.0))


def sgd(
    rates: Sequence[float],
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    iterate_weights: Sequence[float] | Vector | None = None,
) -> Accumulation:
    """Returns the accumulation vector of SGD, as `torch.optim.SGD` takes its steps.

    Args:
        rates: Learning rate of each step over the peak rate; ones without schedule and warmup.
        momentum: `rho` in `v = rho v + g`, `x -= lr v`.
        nesterov: Steps along `g + rho v` instead of `v`.
        weight_decay: `d = lr lambda`. It joins the gradient before momentum, as in torch.
        iterate_weights: Shares of the iterates after steps 1 to K in the stored mean, from
            `swa_weights` or `ema_weights`; None stores the last iterate.

    Departure: with both a schedule and momentum the velocity is multiplied by each step's own rate,
    as torch does; FedNova's closed forms have one of them at a time.
    """
    num_steps = len(rates)
    # The last column is a run without gradients from x_0 = 1, which gives the pull of the decay.
    position, velocity = np.zeros(num_steps + 1), np.zeros(num_steps + 1)
    position[-1] = 1.0
    return _run(
        rates,
        position=position,
        iterate_weights=iterate_weights,
        move=lambda step, at: _sgd_step(
            step, at, velocity, momentum=momentum, nesterov=nesterov, decay=weight_decay
        ),
    )


def adam(
    rates: Sequence[float],
    *,
    first_decay: float = 0.9,
    weight_decay: float = 0.0,
    iterate_weights: Sequence[float] | Vector | None = None,
) -> Accumulation:
    """Returns the accumulation vector of Adam's first moment, with a frozen preconditioner.

    Args:
        rates: Learning rate of each step over the peak rate.
        first_decay: Adam's `beta_1`. The second moment is not linear and does not enter.
        weight_decay: `lr lambda` of AdamW's decoupled decay. Adam's own decay goes through the
            preconditioner, which is unknown here: pass 0, and say that it is left out.
        iterate_weights: As for `sgd`.
    """
    num_steps = len(rates)
    position, moment = np.zeros(num_steps + 1), np.zeros(num_steps + 1)
    position[-1] = 1.0

    def move(step: int, at: Vector) -> Vector:
        moment[:] *= first_decay
        moment[step] += 1 - first_decay
        return moment / (1 - first_decay ** (step + 1)) + weight_decay * at

    return _run(rates, position=position, iterate_weights=iterate_weights, move=move)


def swa_weights(num_steps: int, *, start: int) -> Vector:
    """Returns the weights of the iterates in a mean that begins after step `start`.

    Raises:
        ValueError: No step is left to average.
    """
    if not 0 <= start < num_steps:
        raise ValueError(f"no step of {num_steps} is left to average after step {start}")
    weights = np.zeros(num_steps)
    weights[start:] = 1 / (num_steps - start)
    return weights


def ema_weights(num_steps: int, *, decay: float) -> Vector:
    """Returns the weights of the iterates in an exponential mean.

    Departure: they are divided by their sum, as `workers.train.averaging` does, so the base has no
    share. Then `a[k] = (1 - decay^(K-k)) / (1 - decay^K)`.
    """
    weights = decay ** np.arange(num_steps - 1, -1, -1, dtype=float)
    return np.asarray(weights / weights.sum())


def expected_norm(accumulation: Accumulation, *, lr: float, num_weights: int) -> float:
    """Returns `lr sqrt(d |a|^2)`: the norm of a task vector that is a walk of unit steps.

    Adam's noise-dominated weights take such a walk. A measured norm far above it is drift.
    """
    return float(lr * np.sqrt(num_weights * accumulation.sum_of_squares))


def _sgd_step(
    step: int, at: Vector, velocity: Vector, *, momentum: float, nesterov: bool, decay: float
) -> Vector:
    gradient = decay * at
    gradient[step] += 1
    velocity[:] = momentum * velocity + gradient
    return gradient + momentum * velocity if nesterov else velocity


def _run(
    rates: Sequence[float],
    *,
    position: Vector,
    iterate_weights: Sequence[float] | Vector | None,
    move: Callable[[int, Vector], Vector],
) -> Accumulation:
    """Runs all impulses; `move` returns the direction that each is moved against at a step.

    The last entry of `position` is a run without gradients, all others begin at 0.
    """
    mean = np.zeros_like(position)
    for step, rate in enumerate(rates):
        position = position - rate * move(step, position)
        if iterate_weights is not None:
            mean += iterate_weights[step] * position
    stored = position if iterate_weights is None else mean
    return Accumulation(entries=-stored[:-1], inner=-position[:-1], pull=float(stored[-1]) - 1.0)

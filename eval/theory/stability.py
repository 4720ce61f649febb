"""Stability: the distance that one exchanged training example moves an expert, and a merge.

Units: squared distance of weights, in expectation ("on average"). All functions are pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.theory.accumulation import Accumulation

STATED_CONSTANT = 4 * math.exp(2)
"""`C` of the stated form, by our reconstruction of its steps; the seed paper's own is not known.

With `lr <= 1 / (L K)`, `(1 + lr L)^(2K) <= e^2`.
"""


@dataclass(frozen=True, kw_only=True)
class GrowthSums:
    """Sums over the steps of `c_k`, by which a difference made at step k grows until the end."""

    first: float
    """`S1 = sum c_k`."""
    second: float
    """`S2 = sum c_k^2`."""
    is_proved: bool
    """Whether the proof's conditions hold; if not, the result is a score."""


def smooth_growth(num_steps: int, *, lr: float, smoothness: float) -> GrowthSums:
    """Returns the growth sums for a smooth loss: `r = 1 + lr L1`."""
    return _powers(num_steps, ratio=1 + lr * smoothness, is_proved=True)


def convex_growth(num_steps: int, *, lr: float, smoothness: float | None) -> GrowthSums:
    """Returns the growth sums for a convex smooth loss, `S1 = S2 = K`.

    They are proved for `lr <= 2 / L1`; with an unknown smoothness they are not.
    """
    is_proved = smoothness is not None and lr * smoothness / 2 <= 1
    return GrowthSums(first=float(num_steps), second=float(num_steps), is_proved=is_proved)


def strongly_convex_growth(
    num_steps: int, *, lr: float, strong_convexity: float, smoothness: float
) -> GrowthSums:
    """Returns the growth sums if every example's loss is strongly convex: `r = 1 - lr mu`.

    They are proved for `lr <= 1 / L1`.

    Raises:
        ValueError: `lr mu` is above 1, where the ratio would be negative.
    """
    if lr * strong_convexity > 1:
        raise ValueError(f"lr mu = {lr * strong_convexity:.3g} is above 1")
    ratio = 1 - lr * strong_convexity
    return _powers(num_steps, ratio=ratio, is_proved=lr * smoothness <= 1)


def general_growth(
    accumulation: Accumulation, *, lr: float, smoothness: float | None = None
) -> GrowthSums:
    """Returns the growth sums of any optimizer, `S1 = Gam A` and `S2 = Gam^2 |a|^2`.

    Args:
        accumulation: That of the stored weights.
        lr: Peak learning rate.
        smoothness: `L1`, for `Gam = (1 + lr max(a) L1)^K`. None for `Gam = 1`, which is a score.
    """
    growth = 1.0
    if smoothness is not None:
        with np.errstate(over="ignore"):
            ratio = np.float64(1 + lr * accumulation.largest * smoothness)
            growth = float(ratio**accumulation.inner.size)
    return GrowthSums(
        first=growth * accumulation.total,
        second=growth * growth * accumulation.sum_of_squares,
        is_proved=smoothness is not None,
    )


def expert_stability(
    growth: GrowthSums, *, lr: float, noise: float, batch_size: int, num_examples: int
) -> float:
    """Returns the proved stability of an expert, `eps_i`.

        2 lr^2 sigma2 (max(0, 1 - b/n) S2 / (b n) + S1^2 / n^2)

    Args:
        growth: The growth sums of the training's steps.
        lr: Peak learning rate.
        noise: `sigma_i2`, `E|grad loss(x; z) - grad F_i(x)|^2` of single examples. The proof needs
            the larger one of the means over held-out and over training examples.
        batch_size: Examples in a step; more than `num_examples` count as all of them.
        num_examples: Training examples, after `data_ratio`.

    Source: derived here, after Hardt 2016 (arXiv:1509.01240) and Lei and Ying 2020
    (arXiv:2006.08157). Two runs see the same batches; one example is exchanged.
    """
    sampled_share = max(0.0, 1 - batch_size / num_examples)
    # A share of 0 drops the term, also where the sum has overflowed.
    batches = sampled_share * growth.second / (batch_size * num_examples) if sampled_share else 0.0
    return float(2 * lr**2 * noise * (batches + _square(growth.first / num_examples)))


def merge_stability(
    expert_stabilities: npt.ArrayLike, *, weights: npt.ArrayLike, coefficients: npt.ArrayLike
) -> float:
    """Returns the exact stability of a linear merge, `sum_i p_i alpha_i^2 eps_i`.

    One exchanged example moves one expert only.

    Args:
        expert_stabilities: `eps_i` (N,), or each tensor's part (N, T) for coefficients per tensor.
        weights: `p_i` (N,), the weights of the tasks in the metric; they sum to 1.
        coefficients: `alpha_i` (N,), or (N, T), in the same shape as `expert_stabilities`.

    Raises:
        ValueError: The shapes disagree.
    """
    eps = np.asarray(expert_stabilities, dtype=float)
    alpha = np.asarray(coefficients, dtype=float)
    if eps.shape != alpha.shape:
        raise ValueError(f"stabilities of shape {eps.shape} and coefficients of {alpha.shape}")
    of_tasks = (alpha**2 * eps).reshape(len(eps), -1).sum(axis=1)
    return float(np.asarray(weights, dtype=float) @ of_tasks)


def stated_merge_stability(
    expert_stabilities: Sequence[float], *, coefficients: Sequence[float]
) -> float:
    """Returns the stated stability of a merge, `sum alpha_i eps_i`: Jensen's inequality.

    For equal weights it is N^2 times the exact value.
    """
    return math.fsum(a * eps for a, eps in zip(coefficients, expert_stabilities, strict=True))


def stated_stability(
    *,
    coefficients: npt.ArrayLike,
    lr: npt.ArrayLike,
    steps: npt.ArrayLike,
    noise: npt.ArrayLike,
    heterogeneity: npt.ArrayLike,
    batch_sizes: npt.ArrayLike,
    num_examples: npt.ArrayLike,
    constant: float = STATED_CONSTANT,
) -> float:
    """Returns the stated stability of a merge; it is a bound for no constant.

        C sum_i alpha_i lr_i^2 K_i (sigma_i2 + b_i zeta_i2) / n_i

    Source: the seed paper (arXiv:2601.21690), Theorem 1, by our reading of its proof. It drops a
    cross term that mean estimation at full batch has: there the exact value exceeds this one by a
    factor that grows with K (a test holds 2.705 for n = 10, K = 1000).

    Shapes: all (N,). Units: squared distance of weights; `noise` and `heterogeneity` are squared
    gradients.
    """
    alpha, eta, num_steps, sigma2, zeta2, batch, n = (
        np.asarray(each, dtype=float)
        for each in (coefficients, lr, steps, noise, heterogeneity, batch_sizes, num_examples)
    )
    return float(constant * np.sum(alpha * eta**2 * num_steps * (sigma2 + batch * zeta2) / n))


def _powers(num_steps: int, *, ratio: float, is_proved: bool) -> GrowthSums:
    with np.errstate(over="ignore"):
        growth = np.float64(ratio) ** np.arange(num_steps)
        first, second = float(growth.sum()), float((growth * growth).sum())
    return GrowthSums(first=first, second=second, is_proved=is_proved)


def _square(value: float) -> float:
    return value * value if math.isfinite(value) else math.inf

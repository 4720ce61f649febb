"""The mixture of tasks that a merge descends on, and its distance to the metric's mixture."""

import math

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def effective_length(
    *, coefficients: npt.ArrayLike, lr: npt.ArrayLike, totals: npt.ArrayLike
) -> float:
    """Returns `H = sum alpha_i lr_i A_i`: the length of the one step that the merge is.

    Units: a learning rate times a number of steps.
    """
    return float(_lengths(coefficients, lr, totals).sum())


def surrogate_weights(
    *, coefficients: npt.ArrayLike, lr: npt.ArrayLike, totals: npt.ArrayLike
) -> Vector:
    """Returns `w_i = alpha_i lr_i A_i / H`: the tasks' weights in what the merge descends on.

    Unequal steps or learning rates tilt them away from the metric's own weights.

    Raises:
        ValueError: `H` is not positive, or a weight is negative: the proofs need weights.
    """
    lengths = _lengths(coefficients, lr, totals)
    if not lengths.sum() > 0 or np.any(lengths < 0):
        raise ValueError(
            f"alpha_i lr_i A_i are {lengths.tolist()}: the surrogate's weights need non-negative "
            "values with a positive sum"
        )
    return np.asarray(lengths / lengths.sum())


def chi_square(weights: npt.ArrayLike, surrogate: npt.ArrayLike) -> float:
    """Returns `chi2 = sum (p_i - w_i)^2 / w_i`; infinite if a weighted task has `w_i = 0`."""
    p, w = np.asarray(weights, dtype=float), np.asarray(surrogate, dtype=float)
    if np.any((w == 0) & (p > 0)):
        return math.inf
    used = w > 0
    return float(np.sum((p[used] - w[used]) ** 2 / w[used]))


def squared_bias(gram: Vector, *, weights: npt.ArrayLike, surrogate: npt.ArrayLike) -> float:
    """Returns `B^2 = |sum (p_i - w_i) g_i|^2`, below 0 where noise makes an unbiased `gram` so.

    It is the price of heterogeneous hyperparameters, and vanishes for `alpha_i ~ p_i / (lr_i A_i)`.
    It is at most `chi2 kappa2_w`.
    """
    difference = np.asarray(weights, dtype=float) - np.asarray(surrogate, dtype=float)
    return float(difference @ gram @ difference)


def heterogeneity_under(gram: Vector, weights: npt.ArrayLike) -> float:
    """Returns `sum w_i |g_i - sum w_j g_j|^2`: `kappa2` for `p`, `kappa2_w` for `w`."""
    w = np.asarray(weights, dtype=float)
    return float(w @ np.diag(gram) - w @ gram @ w)


def task_heterogeneity(gram: Vector, weights: npt.ArrayLike) -> Vector:
    """Returns `zeta_i2 = |g_i - sum p_j g_j|^2` for each task, shape (N,)."""
    p = np.asarray(weights, dtype=float)
    return np.asarray(np.diag(gram) - 2 * (gram @ p) + p @ gram @ p)


def mixture_squared_gradient(gram: Vector, weights: npt.ArrayLike) -> float:
    """Returns `g2 = |sum p_i g_i|^2`."""
    p = np.asarray(weights, dtype=float)
    return float(p @ gram @ p)


def agreement(gram: Vector, weights: npt.ArrayLike) -> float:
    """Returns `g2 / sum p_i |g_i|^2`: 1 for equal gradients, 1/N for orthogonal ones of one length.

    NaN if noise makes the denominator's unbiased estimate zero or negative.
    """
    p = np.asarray(weights, dtype=float)
    lengths = float(p @ np.diag(gram))
    return mixture_squared_gradient(gram, p) / lengths if lengths > 0 else math.nan


def _lengths(coefficients: npt.ArrayLike, lr: npt.ArrayLike, totals: npt.ArrayLike) -> Vector:
    alpha, eta, total = (np.asarray(each, dtype=float) for each in (coefficients, lr, totals))
    return np.asarray(alpha * eta * total)

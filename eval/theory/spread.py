"""Corollary 1: the spread of task vectors from their inner products, and DARE's effect on it.

Units: squared distance of weights. `gram` holds `<tau_i, tau_j>`, shape (N, N).
"""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def spread(gram: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """Returns `S = sum p_i |tau_i - sum p_j tau_j|^2`.

    Source: the seed paper (arXiv:2601.21690), Corollary 1, compares it before and after an
    operator. It says nothing of the operator's own stability.
    """
    products, p = np.asarray(gram, dtype=float), np.asarray(weights, dtype=float)
    return float(p @ np.diag(products) - p @ products @ p)


def relative_spread(gram: npt.ArrayLike, weights: npt.ArrayLike) -> float:
    """Returns `S / |sum p_j tau_j|^2`, which is free of scale; infinite if the mean is 0."""
    products, p = np.asarray(gram, dtype=float), np.asarray(weights, dtype=float)
    mean_square = float(p @ products @ p)
    return spread(products, p) / mean_square if mean_square > 0 else math.inf


def dare_spread(
    gram: npt.ArrayLike, weights: npt.ArrayLike, *, density: float, rescale: bool = True
) -> float:
    """Returns the exact expectation of the spread after DARE's independent masks.

        rescaled: S + (1/q - 1) sum p_i (1 - p_i) |tau_i|^2
        not:      q^2 S + q (1 - q) sum p_i (1 - p_i) |tau_i|^2

    Args:
        gram: `<tau_i, tau_j>`.
        weights: `p_i`.
        density: `q`, the kept share, in (0, 1].
        rescale: Divides what is kept by `q`.

    Source: derived here. DARE: Yu 2024, arXiv:2311.03099.
    """
    products, p = np.asarray(gram, dtype=float), np.asarray(weights, dtype=float)
    added = float(np.sum(p * (1 - p) * np.diag(products)))
    if rescale:
        return spread(products, p) + (1 / density - 1) * added
    return density**2 * spread(products, p) + density * (1 - density) * added


def dare_stability_factor(density: float) -> float:
    """Returns `1 / q`: the factor by which DARE's rescaled masks raise a merge's stability."""
    return 1 / density

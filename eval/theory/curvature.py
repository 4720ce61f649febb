"""Estimates curvature by quotients, with a bracket, and the reach of a path.

The largest eigenvalue of a sample's Hessian is biased up. The quotient of its eigenvector on an
independent sample is biased down. Both together are a bracket.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class CurvatureBracket:
    """The bracket of a smoothness `L` over pairs of samples, in 1 / step."""

    low: float
    """Mean of `v'H_B v`: biased down."""
    high: float
    """Mean of `lambda_max(H_A)`: biased up."""
    low_sd: float
    """Standard deviation of `v'H_B v` over the pairs; NaN for one pair."""
    high_sd: float
    """Standard deviation of `lambda_max(H_A)` over the pairs."""
    num_pairs: int


def curvature_bracket(
    *, quotients: Sequence[float], eigenvalues: Sequence[float]
) -> CurvatureBracket:
    """Returns the bracket of pairs of samples A and B.

    Args:
        quotients: `v'H_B v` of each pair, with `v` the unit eigenvector of `H_A`.
        eigenvalues: `lambda_max(H_A)` of each pair.

    Raises:
        ValueError: There is no pair, or the numbers differ.
    """
    if not quotients or len(quotients) != len(eigenvalues):
        raise ValueError(f"{len(quotients)} quotients and {len(eigenvalues)} eigenvalues")
    many = len(quotients) > 1
    return CurvatureBracket(
        low=float(np.mean(quotients)),
        high=float(np.mean(eigenvalues)),
        low_sd=float(np.std(quotients, ddof=1)) if many else math.nan,
        high_sd=float(np.std(eigenvalues, ddof=1)) if many else math.nan,
        num_pairs=len(quotients),
    )


@dataclass(frozen=True, kw_only=True)
class Eigenpair:
    """An eigenvalue of a matrix with its vector, as an iteration found them."""

    value: float
    vector: Vector
    """(d,), of length 1."""
    num_products: int
    """Products with the matrix that the iteration took."""


def largest_eigenvalue(
    product: Callable[[Vector], Vector],
    *,
    start: Vector,
    num_products: int,
    tolerance: float = 0.0,
) -> Eigenpair:
    """Returns the largest eigenvalue of a symmetric matrix, and its unit vector, by Lanczos.

    Every new direction is made orthogonal to all earlier ones, twice; they are few.

    Args:
        product: Multiplies a vector (d,) by the matrix.
        start: Any vector (d,) but 0; a random one.
        num_products: Most calls of `product`, 7 to 15. Fewer are made if the space is exhausted.
        tolerance: The iteration ends once the residual `|Av - value v|` is at most this share of
            the value. The value is then off by that share at most, and by about its square where
            the next eigenvalue is far.

    Raises:
        ValueError: `start` is 0, or `num_products` below 1.
    """
    norm = float(np.linalg.norm(start))
    if not norm > 0 or num_products < 1:
        raise ValueError("Lanczos needs a start that is not 0, and at least one product")
    directions, diagonal, beside = [start / norm], list[float](), list[float]()
    along = np.empty_like(start)
    for _ in range(num_products):
        image = product(directions[-1])
        diagonal.append(float(np.dot(directions[-1], image)))
        rest = image.copy()
        for _ in range(2):
            for direction in directions:
                np.multiply(direction, np.dot(direction, rest), out=along)
                rest -= along
        length = float(np.linalg.norm(rest))
        if length <= 1e-6 * max(abs(each) for each in diagonal):  # the space is exhausted
            break
        beside.append(length)
        directions.append(rest / length)
        value, weights = _largest_of_tridiagonal(diagonal, beside)
        if length * abs(weights[-1]) <= tolerance * abs(value):
            break
    value, weights = _largest_of_tridiagonal(diagonal, beside)
    vector = sum(
        weight * direction
        for weight, direction in zip(weights, directions[: len(diagonal)], strict=True)
    )
    unit = np.asarray(vector)
    unit /= np.linalg.norm(unit)
    return Eigenpair(value=value, vector=unit, num_products=len(diagonal))


def _largest_of_tridiagonal(
    diagonal: Sequence[float], beside: Sequence[float]
) -> tuple[float, npt.NDArray[np.float64]]:
    """Returns the largest eigenvalue of a tridiagonal matrix, and its unit vector."""
    off = list(beside[: len(diagonal) - 1])
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    return float(values[-1]), vectors[:, -1]


def path_reach(*, curvature: float, slope: float) -> float:
    """Returns `rho = t'H t / |g't|` along a path `t` from the base.

    Up to a magnitude of 1 the second-order Taylor expansion is a usable estimate, up to 3 it has
    the right order; beyond, no local theory describes the path. Negative curvature gives a negative
    reach, and bends the path's loss as much as a positive one of the same magnitude.

    Args:
        curvature: `t'H t`, nats.
        slope: `g't`, nats. With a slope of 0 the reach is infinite, or 0 if the curvature is 0.
    """
    if slope == 0:
        return 0.0 if curvature == 0 else math.copysign(math.inf, curvature)
    return curvature / abs(slope)

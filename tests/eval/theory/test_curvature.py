import math

import numpy as np
import pytest

from eval.theory.curvature import (
    CurvatureBracket,
    curvature_bracket,
    largest_eigenvalue,
    path_reach,
)

DIMENSIONS = 60
SPECTRUM = np.exp(-np.arange(DIMENSIONS) / 6.0)
"""Eigenvalues of the true Hessian; the largest is 1."""


def sample(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns rows whose second moment is diag(SPECTRUM); a sample's Hessian is X'X / size."""
    return rng.standard_normal((size, DIMENSIONS)) * np.sqrt(SPECTRUM)


def test_the_iteration_ends_within_its_tolerance() -> None:
    """With a gap above the second eigenvalue, some products suffice, and the residual is small."""
    spectrum = np.concatenate([[3.0], SPECTRUM])
    start = np.random.default_rng(0).standard_normal(len(spectrum))
    whole, found = (
        largest_eigenvalue(
            lambda v: spectrum * v, start=start, num_products=15, tolerance=tolerance
        )
        for tolerance in (0.0, 0.02)
    )
    assert found.num_products < whole.num_products == 15
    residual = np.linalg.norm(spectrum * found.vector - found.value * found.vector)
    assert residual <= 0.02 * found.value
    assert found.value == pytest.approx(whole.value, rel=1e-3)


@pytest.mark.parametrize("size", [32, 128])
def test_bracket_holds_the_truth_on_average_and_narrows(size: int) -> None:
    """Over 60 samples, lambda_max is above and the cross-fitted quotient below."""
    rng = np.random.default_rng(0)

    def bracket_of(size: int) -> CurvatureBracket:
        eigenvalues, quotients = [], []
        for _ in range(60):
            first, second = sample(rng, size), sample(rng, size)
            found = largest_eigenvalue(
                lambda v, rows=first: rows.T @ (rows @ v) / size,
                start=rng.standard_normal(DIMENSIONS),
                num_products=12,
            )
            eigenvalues.append(found.value)
            quotients.append(float(np.sum((second @ found.vector) ** 2) / size))
        return curvature_bracket(quotients=quotients, eigenvalues=eigenvalues)

    bracket, larger = bracket_of(size), bracket_of(2 * size)
    assert bracket.low <= 1 <= bracket.high
    assert larger.high - larger.low < bracket.high - bracket.low


def test_lanczos_finds_the_largest_eigenvalue() -> None:
    """Exactly, once the space is exhausted; the sign of a smaller negative one does not matter."""
    matrix = np.diag([-5.0, 1.0, 3.0])
    found = largest_eigenvalue(lambda v: matrix @ v, start=np.ones(3), num_products=10)
    assert found.value == pytest.approx(3)
    assert np.abs(found.vector) == pytest.approx([0, 0, 1], abs=1e-6)
    assert found.num_products == 3
    nothing = largest_eigenvalue(lambda v: 0 * v, start=np.ones(3), num_products=4)
    assert (nothing.value, nothing.num_products) == (0, 1)
    with pytest.raises(ValueError, match="not 0"):
        largest_eigenvalue(lambda v: v, start=np.zeros(3), num_products=3)


def test_a_bracket_needs_pairs() -> None:
    """Without any there is nothing to average."""
    with pytest.raises(ValueError, match="quotients"):
        curvature_bracket(quotients=[], eigenvalues=[])


def test_reach_of_noise_free_descent_on_a_quadratic_is_at_most_one() -> None:
    """Rho <= min(1, lr L K)."""
    gradient = np.random.default_rng(3).standard_normal(DIMENSIONS)
    for steps in (1, 4, 400):
        path = -(1 - (1 - 0.1 * SPECTRUM) ** steps) / SPECTRUM * gradient
        reach = path_reach(curvature=float(path @ (SPECTRUM * path)), slope=float(gradient @ path))
        assert 0 < reach <= min(1, 0.1 * steps) + 1e-12


def test_path_without_slope() -> None:
    """Infinite, unless nothing happens at all."""
    assert path_reach(curvature=2, slope=0) == math.inf
    assert path_reach(curvature=0, slope=0) == 0
    assert path_reach(curvature=3, slope=-2) == 1.5

import math

import numpy as np
import pytest
import quadratic_tasks as quadratic

from eval.theory.surrogate import (
    agreement,
    chi_square,
    effective_length,
    heterogeneity_under,
    mixture_squared_gradient,
    squared_bias,
    surrogate_weights,
    task_heterogeneity,
)

STEPS = [5, 10, 20, 40]
GRAM = quadratic.constants().gram


def test_constants_of_the_quadratic_tasks() -> None:
    """Exact population values."""
    noise = quadratic.constants().noise
    assert noise == pytest.approx([2.25866, 3.73371, 5.57751, 7.79008], abs=1e-5)
    zeta2 = task_heterogeneity(GRAM, quadratic.EQUAL)
    assert zeta2 == pytest.approx([1.81236, 1.35757, 1.22714, 1.22100], abs=1e-5)
    assert heterogeneity_under(GRAM, quadratic.EQUAL) == pytest.approx(1.404519, abs=1e-6)
    assert mixture_squared_gradient(GRAM, quadratic.EQUAL) == pytest.approx(2.074282, abs=1e-6)
    assert agreement(GRAM, quadratic.EQUAL) == pytest.approx(0.59626, abs=1e-5)
    excess = quadratic.LOSSES.mean() - quadratic.LEAST_LOSS
    assert excess == pytest.approx(1.796743, abs=1e-6)


def test_unequal_steps_tilt_the_mixture() -> None:
    """K = 5, 10, 20, 40 with all else equal."""
    w = surrogate_weights(coefficients=[0.25] * 4, lr=[0.1] * 4, totals=STEPS)
    assert w == pytest.approx([0.066667, 0.133333, 0.266667, 0.533333], abs=1e-6)
    assert chi_square(quadratic.EQUAL, w) == pytest.approx(0.7578125)
    length = effective_length(coefficients=[0.25] * 4, lr=[0.1] * 4, totals=STEPS)
    assert length == pytest.approx(1.875)


def test_coefficients_against_the_steps_restore_the_mixture() -> None:
    """Coefficients of 1/K give chi2 = 0 and B = 0."""
    alpha = 1 / np.array(STEPS)
    w = surrogate_weights(coefficients=alpha, lr=[0.1] * 4, totals=STEPS)
    assert chi_square(quadratic.EQUAL, w) == pytest.approx(0, abs=1e-15)
    assert squared_bias(GRAM, weights=quadratic.EQUAL, surrogate=w) == pytest.approx(0, abs=1e-15)


def test_bias_is_at_most_chi_square_times_heterogeneity() -> None:
    """Cauchy-Schwarz, for mixtures at random."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        w = rng.dirichlet(np.ones(4))
        bias = squared_bias(GRAM, weights=quadratic.EQUAL, surrogate=w)
        assert 0 <= bias <= chi_square(quadratic.EQUAL, w) * heterogeneity_under(GRAM, w) + 1e-12


def test_task_that_training_never_saw_makes_chi_square_infinite() -> None:
    """w_i = 0 with p_i > 0."""
    assert chi_square([0.5, 0.5], [1, 0]) == math.inf
    assert chi_square([1, 0], [1, 0]) == 0


@pytest.mark.parametrize("coefficients", [[0.5, -0.5], [0, 0], [1.5, -0.5]])
def test_mixture_of_no_weights_is_refused(coefficients: list[float]) -> None:
    """The proofs need non-negative weights."""
    with pytest.raises(ValueError, match="non-negative"):
        surrogate_weights(coefficients=coefficients, lr=[1, 1], totals=[1, 1])

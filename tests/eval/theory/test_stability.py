import math

import numpy as np
import pytest
import quadratic_tasks as quadratic

from eval.theory.accumulation import sgd
from eval.theory.stability import (
    GrowthSums,
    convex_growth,
    expert_stability,
    general_growth,
    merge_stability,
    smooth_growth,
    stated_merge_stability,
    stated_stability,
    strongly_convex_growth,
)

PHI = 1 - (1 - 0.025 * quadratic.CURVATURES) ** 20
"""The share of the way to its minimum that full-batch descent covers in each direction."""


def proved(growth: GrowthSums, *, batch_size: int) -> float:
    """Returns the merge's proved stability on the quadratic tasks, lr = .025."""
    experts = [
        expert_stability(growth, lr=0.025, noise=noise, batch_size=batch_size, num_examples=50)
        for noise in quadratic.NOISE
    ]
    return merge_stability(experts, weights=quadratic.EQUAL, coefficients=quadratic.EQUAL)


def test_expert_stability_of_a_convex_loss() -> None:
    """By hand: 2 * .025^2 * (.9 * 20 / 250 + 400 / 2500)."""
    growth = convex_growth(20, lr=0.025, smoothness=1)
    eps = expert_stability(growth, lr=0.025, noise=1, batch_size=5, num_examples=50)
    assert eps == pytest.approx(2.9000e-4, rel=1e-9)
    assert growth.is_proved


def test_growth_sums_of_a_smooth_loss() -> None:
    """The closed forms of the geometric sums, at r = 1.025 and K = 20."""
    growth = smooth_growth(20, lr=0.025, smoothness=1)
    assert growth.first == pytest.approx(25.544658, abs=1e-6)
    assert growth.second == pytest.approx(33.285213, abs=2e-6)


def test_growth_sums_of_a_strongly_convex_loss_shrink() -> None:
    """The geometric sums at r = .9, K = 3: 1 + .9 + .81 and 1 + .81 + .6561."""
    growth = strongly_convex_growth(3, lr=0.1, strong_convexity=1, smoothness=2)
    assert (growth.first, growth.second) == pytest.approx((2.71, 2.4661))


def test_convexity_proves_nothing_beyond_its_learning_rate() -> None:
    """The condition is lr <= 2 / L1; an unknown smoothness fulfils none."""
    assert convex_growth(5, lr=0.2, smoothness=10).is_proved
    assert not convex_growth(5, lr=0.21, smoothness=10).is_proved
    assert not convex_growth(5, lr=0.1, smoothness=None).is_proved
    with pytest.raises(ValueError, match="above 1"):
        strongly_convex_growth(3, lr=2, strong_convexity=1, smoothness=1)


def test_general_growth_of_plain_steps_is_at_most_the_worst_of_sgd() -> None:
    """With ones it is `Gam K` and `Gam^2 K`, `Gam = r^K`; without smoothness it is K, a score."""
    accumulation = sgd([1.0] * 20)
    worst = general_growth(accumulation, lr=0.025, smoothness=1)
    assert worst.first == pytest.approx(20 * 1.025**20)
    assert worst.second == pytest.approx(20 * 1.025**40)
    score = general_growth(accumulation, lr=0.025)
    assert (score.first, score.second, score.is_proved) == (20, 20, False)


def test_growth_beyond_floats_is_infinite_and_never_nan() -> None:
    """A full batch drops the second sum, also where it has overflowed."""
    growth = smooth_growth(4000, lr=1, smoothness=10)
    eps = expert_stability(growth, lr=1, noise=1, batch_size=64, num_examples=50)
    assert growth.second == math.inf
    assert eps == math.inf


def test_quadratics_with_full_batches() -> None:
    """The exact stability of the merge, and its proved forms."""
    exact = np.mean(2 * quadratic.SPREADS**2) * np.sum(PHI**2) / 50**2 / 16
    assert exact == pytest.approx(4.379835e-5, rel=1e-6)
    convex = proved(convex_growth(20, lr=0.025, smoothness=1), batch_size=50)
    smooth = proved(smooth_growth(20, lr=0.025, smoothness=1), batch_size=50)
    assert convex == pytest.approx(6.04999e-5, rel=1e-5)
    assert smooth == pytest.approx(9.86949e-5, rel=1e-5)
    assert exact < convex < smooth


def simulated_stability(*, batch_size: int, repetitions: int) -> tuple[float, float]:
    """Returns the mean squared distance of two merges, one example apart, and its error."""
    rng = np.random.default_rng(0)
    steps, n = 20, quadratic.NUM_EXAMPLES
    means = []
    for spread in quadratic.SPREADS:
        # The noise of the data is all that moves: the exchanged example enters each batch it is in.
        drawn = np.argsort(rng.random((repetitions, steps, n)), axis=2)[:, :, :batch_size] == 0
        exchanged = spread * math.sqrt(2) * rng.standard_normal((repetitions, 20))
        distance = np.zeros((repetitions, 20))
        for step in range(steps):
            entering = drawn[:, step].any(axis=1)[:, None] * exchanged / batch_size
            distance += 0.025 * quadratic.CURVATURES * (entering - distance)
        means.append((distance**2).sum(axis=1) / 16)
    values = np.mean(means, axis=0)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(repetitions))


def test_quadratics_with_small_batches_never_exceed_the_proved_form() -> None:
    """Simulated: (6.44 +- .1)e-5 at b = 5."""
    mean, error = simulated_stability(batch_size=5, repetitions=1500)
    assert abs(mean - 6.44e-5) < 0.1e-5 + 2 * error
    for batch_size in (1, 5, 25):
        mean, error = simulated_stability(batch_size=batch_size, repetitions=300)
        bound = proved(convex_growth(20, lr=0.025, smoothness=1), batch_size=batch_size)
        assert mean <= bound + 2 * error


def test_stated_stability_is_violated_by_mean_estimation() -> None:
    """At n = 10, K = 1000 the exact value is 2.705 times the stated one, and the ratio grows."""
    ratios = []
    for steps in (1000, 4000):
        lr = 1 / steps
        exact = 2 * (1 - (1 - lr) ** steps) ** 2 / 10**2
        stated = stated_stability(
            coefficients=[1],
            lr=[lr],
            steps=[steps],
            noise=[1],
            heterogeneity=[0],
            batch_sizes=[10],
            num_examples=[10],
        )
        bound = expert_stability(
            convex_growth(steps, lr=lr, smoothness=1),
            lr=lr,
            noise=1,
            batch_size=10,
            num_examples=10,
        )
        ratios.append(exact / stated)
        assert bound / exact == pytest.approx(2.50, abs=0.005)
    assert ratios[0] == pytest.approx(2.705, abs=0.001)
    assert ratios[1] > 3.9 * ratios[0]


def test_merging_divides_stability_by_the_square_of_the_number_of_tasks() -> None:
    """The stated form, Jensen's inequality, does not see this."""
    for num_tasks in (1, 2, 8):
        equal = np.full(num_tasks, 1 / num_tasks)
        eps = np.full(num_tasks, 3.0)
        assert merge_stability(eps, weights=equal, coefficients=equal) == pytest.approx(
            3 / num_tasks**2
        )
        assert stated_merge_stability(eps.tolist(), coefficients=equal.tolist()) == pytest.approx(3)


def test_coefficients_may_differ_from_tensor_to_tensor() -> None:
    """By hand: 1/2 (.25 * 1 + 1 * 2) + 1/2 (0 + .25 * 4); equal ones give the plain form."""
    eps = [[1.0, 2.0], [3.0, 4.0]]
    per_tensor = merge_stability(eps, weights=[0.5, 0.5], coefficients=[[0.5, 1], [0, 0.5]])
    assert per_tensor == pytest.approx(1.625)
    plain = merge_stability([3, 7], weights=[0.5, 0.5], coefficients=[0.5, 0.5])
    assert merge_stability(eps, weights=[0.5, 0.5], coefficients=[[0.5, 0.5]] * 2) == pytest.approx(
        plain
    )
    with pytest.raises(ValueError, match="shape"):
        merge_stability(eps, weights=[0.5, 0.5], coefficients=[0.5, 0.5])


def test_proved_stability_moves_as_the_table_says() -> None:
    """Down in n, b and N; up in K, lr, scale and noise."""

    def eps(
        *,
        n: int = 50,
        b: int = 5,
        steps: int = 20,
        lr: float = 0.025,
        num_tasks: int = 4,
        scale: float = 1.0,
        noise: float = 1.0,
        smoothness: float = 1.0,
    ) -> float:
        expert = expert_stability(
            smooth_growth(steps, lr=lr, smoothness=smoothness),
            lr=lr,
            noise=noise,
            batch_size=b,
            num_examples=n,
        )
        equal = np.full(num_tasks, 1 / num_tasks)
        return merge_stability([expert] * num_tasks, weights=equal, coefficients=scale * equal)

    start = eps()
    for falls in (eps(n=100), eps(b=10), eps(num_tasks=8)):
        assert falls < start
    for rises in (
        eps(steps=21),
        eps(lr=0.03),
        eps(scale=1.1),
        eps(noise=1.1),
        eps(smoothness=1.1),
    ):
        assert rises > start
    assert eps(b=49) > eps(b=50) == eps(b=60)  # the floor


def test_stated_stability_moves_as_the_table_says() -> None:
    """Down in n; up in K, lr, scale, noise and heterogeneity, and, unlike the proved one, in b."""

    def eps(
        *,
        n: int = 50,
        b: int = 5,
        steps: int = 20,
        lr: float = 0.025,
        num_tasks: int = 4,
        scale: float = 1.0,
        noise: float = 1.0,
        zeta: float = 1.0,
    ) -> float:
        ones = np.ones(num_tasks)
        return stated_stability(
            coefficients=scale * ones / num_tasks,
            lr=lr * ones,
            steps=steps * ones,
            noise=noise * ones,
            heterogeneity=zeta * ones,
            batch_sizes=b * ones,
            num_examples=n * ones,
        )

    start = eps()
    assert eps(n=100) == pytest.approx(start / 2)
    assert eps(num_tasks=8) == pytest.approx(start)
    assert eps(b=10, zeta=0) == pytest.approx(eps(zeta=0))
    for rises in (
        eps(b=6),
        eps(steps=21),
        eps(lr=0.03),
        eps(scale=1.1),
        eps(noise=1.1),
        eps(zeta=2),
    ):
        assert rises > start

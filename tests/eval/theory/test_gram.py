import numpy as np
import pytest

from eval.theory.gram import (
    gradient_gram,
    gradient_noise,
    is_resolved,
    jackknife,
)
from eval.theory.surrogate import heterogeneity_under, task_heterogeneity

WEIGHTS = np.array([0.5, 0.3, 0.2])
SIGMAS = np.array([1.0, 2.0, 3.0])
NUM_BATCHES, BATCH_SIZE, DIMENSIONS = 8, 4, 30
MEANS = 0.1 * np.random.default_rng(7).standard_normal((3, DIMENSIONS))


def products(rng: np.random.Generator) -> np.ndarray:
    """Returns the inner products of noisy batches; sigma_i2 = DIMENSIONS * SIGMAS^2."""
    noise = rng.standard_normal((3, NUM_BATCHES, DIMENSIONS)) / np.sqrt(BATCH_SIZE)
    batches = MEANS[:, None] + SIGMAS[:, None, None] * noise
    return np.einsum("iqd,jrd->iqjr", batches, batches)


def naive_gram(products: np.ndarray) -> np.ndarray:
    """Returns the inner products of the mean gradients, whose diagonal noise inflates."""
    return products.sum(axis=(1, 3)) / NUM_BATCHES**2


def test_naive_heterogeneity_exceeds_the_unbiased_one_as_predicted() -> None:
    """Within three standard errors over 300 repetitions, for kappa2 and each zeta_i2."""
    rng = np.random.default_rng(0)
    totals, tasks, noises, grams = [], [], [], []
    for _ in range(300):
        drawn = products(rng)
        naive, unbiased = naive_gram(drawn), gradient_gram(drawn)
        totals.append(heterogeneity_under(naive, WEIGHTS) - heterogeneity_under(unbiased, WEIGHTS))
        tasks.append(task_heterogeneity(naive, WEIGHTS) - task_heterogeneity(unbiased, WEIGHTS))
        noises.append(gradient_noise(drawn, batch_size=BATCH_SIZE))
        grams.append(unbiased)
    sigma2, num_examples = DIMENSIONS * SIGMAS**2, NUM_BATCHES * BATCH_SIZE
    of_means = sigma2 / num_examples
    expected = np.sum(WEIGHTS * (1 - WEIGHTS) * of_means)
    others = np.sum(WEIGHTS**2 * of_means) - WEIGHTS**2 * of_means
    by_task = (1 - WEIGHTS) ** 2 * of_means + others
    for values, truth in (
        (np.array(totals), expected),
        (np.array(noises), sigma2),
        (np.array(grams), MEANS @ MEANS.T),
        (np.array(tasks), by_task),
    ):
        error = values.std(axis=0, ddof=1) / np.sqrt(300)
        assert np.all(np.abs(values.mean(axis=0) - truth) <= 3.5 * error)


def test_unbiased_values_below_zero_are_returned() -> None:
    """Where noise dominates, about half of the squared lengths are negative."""
    rng = np.random.default_rng(1)
    lengths = np.array([np.diag(gradient_gram(products(rng))) for _ in range(50)])
    assert np.any(lengths[:, 2] < 0)


def test_jackknife_is_exact_for_a_mean_and_near_the_truth_for_a_quadratic_form() -> None:
    """For a mean it is the usual standard error; for kappa2 it may be conservative."""
    rng = np.random.default_rng(2)
    values, errors = [], []
    for _ in range(200):
        estimate = jackknife(
            products(rng), lambda each: heterogeneity_under(gradient_gram(each), WEIGHTS)
        )
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    truth = np.std(values, ddof=1)
    assert 0.8 * truth < np.mean(errors) < 2.5 * truth
    drawn = products(rng)
    squares = np.einsum("iqiq->iq", drawn)
    mean = jackknife(drawn, lambda each: np.einsum("iqiq->iq", each).mean(axis=1))
    usual = squares.std(axis=1, ddof=1) / np.sqrt(NUM_BATCHES)
    assert mean.standard_error == pytest.approx(usual)


def test_resolution_needs_examples() -> None:
    """M >= sigma2 / kappa2, for the noisiest task."""
    assert is_resolved(2.0, noise=[100, 400], num_examples=200)
    assert not is_resolved(2.0, noise=[100, 400], num_examples=199)
    assert not is_resolved(-1.0, noise=[0], num_examples=10)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3, 5), (3, 1, 3, 1)])
def test_products_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """(N, Q, N, Q), with at least two batches."""
    with pytest.raises(ValueError, match="batches"):
        gradient_gram(np.zeros(shape))

import numpy as np
import pytest
from scipy import stats

from orchestrator.advice.gain import knowledge_gradients
from orchestrator.advice.surrogate import Surrogate


def surrogate(mean: list[float], model: list[list[float]], own: float, noise: float) -> Surrogate:
    return Surrogate(
        mean=np.array(mean),
        of_model=np.array(model),
        own_variance=np.full(len(mean), own),
        noise=noise,
        num_settings=10,
    )


def test_one_candidate_has_the_known_expected_improvement() -> None:
    """Beside a measured setting and without noise, the gain is s (phi(u) - u Phi(-u))."""
    found = knowledge_gradients(
        surrogate([0.1], [[0.04]], own=0.0, noise=0.0), experiments=[[0]], best_loss=0.0
    )
    u = 0.1 / 0.2
    expected = 0.2 * (stats.norm.pdf(u) - u * stats.norm.sf(u))
    assert found[0] == pytest.approx(expected, rel=0.1)


def test_the_informative_experiment_gains_more() -> None:
    """Of equal means, an uncertain candidate gains more than a certain one."""
    found = knowledge_gradients(
        surrogate([0.0, 0.0], [[0.04, 0.0], [0.0, 0.0001]], own=0.0, noise=0.0),
        experiments=[[0], [1]],
        best_loss=0.0,
    )
    assert found[0] > 5 * found[1] > 0


def test_a_bad_candidate_gains_by_what_it_says_about_a_good_one() -> None:
    """The first is surely bad itself, but moves with the second; the third says nothing else."""
    model = [[0.04, 0.036, 0.0], [0.036, 0.04, 0.0], [0.0, 0.0, 0.04]]
    found = knowledge_gradients(
        surrogate([3.0, 0.0, 3.0], model, own=0.0, noise=0.001),
        experiments=[[0], [1], [2]],
        best_loss=0.0,
    )
    assert found[0] > 0.5 * found[1]
    assert found[2] == pytest.approx(0.0, abs=1e-6)


def test_noise_lowers_the_gain_and_snapshots_never_do() -> None:
    """Measuring a second candidate too says no less."""
    model = [[0.04, 0.01], [0.01, 0.04]]
    quiet, loud = (
        knowledge_gradients(
            surrogate([0.0, 0.0], model, own=0.01, noise=noise),
            experiments=[[0], [0, 1]],
            best_loss=0.0,
        )
        for noise in (0.001, 0.1)
    )
    assert quiet[0] > 1.3 * loud[0]
    assert quiet[1] > quiet[0]

import numpy as np
import pytest

from eval.theory.accumulation import adam, ema_weights, expected_norm, sgd, swa_weights

ONES = [1.0] * 5


def test_plain_steps_count_once() -> None:
    """A = K, and the last entry is 1."""
    a = sgd(ONES)
    assert a.entries.tolist() == ONES
    assert (a.total, a.sum_of_squares, a.largest, a.inner_last, a.is_plain) == (5, 5, 1, 1, True)


def test_momentum_repeats_a_gradient() -> None:
    """(1 - rho^(K-k)) / (1 - rho)."""
    a = sgd(ONES, momentum=0.9)
    assert a.entries == pytest.approx([4.0951, 3.439, 2.71, 1.9, 1])
    assert a.sum_of_squares == pytest.approx(40.55067, abs=1e-5)
    assert not a.is_plain


def test_nesterov_looks_one_step_further() -> None:
    """The same with the exponent K - k + 1."""
    a = sgd(ONES, momentum=0.9, nesterov=True)
    assert a.entries == pytest.approx([(1 - 0.9 ** (6 - k)) / 0.1 for k in range(5)])


def test_decay_forgets_early_steps_and_pulls_to_zero() -> None:
    """(1 - d)^(K-1-k), and the base's share shrinks by (1 - d)^K."""
    a = sgd(ONES, weight_decay=0.1)
    assert a.entries == pytest.approx([0.9**4, 0.9**3, 0.9**2, 0.9, 1])
    assert a.pull == pytest.approx(0.9**5 - 1)
    decoupled = adam(ONES, first_decay=0.0, weight_decay=0.1)
    assert decoupled.entries == pytest.approx(a.entries)


def test_adam_spreads_a_gradient_over_later_steps() -> None:
    """sum_{t>k} (1-b1) b1^(t-1-k) / (1 - b1^t); the sum is K."""
    a = adam(ONES)
    assert a.entries == pytest.approx([2.144773, 1.271970, 0.828505, 0.510557, 0.244194], abs=1e-6)
    assert a.total == pytest.approx(5)


def test_averages_of_iterates() -> None:
    """SWA: (K - max(k, qK)) / (K - qK). EMA: (1 - d^(K-k)) / (1 - d^K)."""
    rates = [1.0] * 8
    swa = sgd(rates, iterate_weights=swa_weights(8, start=6))
    assert swa.entries == pytest.approx([(8 - max(k, 6)) / 2 for k in range(8)])
    assert swa.is_plain
    ema = sgd(rates, iterate_weights=ema_weights(8, decay=0.9))
    assert ema.entries == pytest.approx([(1 - 0.9 ** (8 - k)) / (1 - 0.9**8) for k in range(8)])
    with pytest.raises(ValueError, match="no step"):
        swa_weights(8, start=8)


def test_no_step_moves_nothing() -> None:
    """An expert of 0 steps is the base."""
    a = sgd([])
    assert (a.total, a.inner_last, a.largest, a.pull) == (0, 0, 0, 0)


def test_walk_of_unit_steps_has_the_measured_norms() -> None:
    """Adam at 2e-4 with 3.37 million weights: 1.42, 1.97, 2.64 after 10, 20 and 40 steps."""
    norms = [
        expected_norm(adam([1.0] * steps), lr=2e-4, num_weights=3_370_000) for steps in (10, 20, 40)
    ]
    assert norms == pytest.approx([1.42, 1.97, 2.64], abs=0.03)
    assert np.all(np.diff(norms) > 0)

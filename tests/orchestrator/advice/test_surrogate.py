import itertools

import numpy as np
import pytest

from orchestrator.advice.surrogate import Surrogate, fit_surrogate
from orchestrator.theory.panel import COLUMNS, Array, Panel

GROUPS = list(itertools.combinations(range(5), 3))
NUM_SETTINGS = 6


def panel(loss: Array) -> Panel:
    """Returns the panel of losses (S, T), the same in all groups that have the task."""
    members = np.array([[task in group for task in range(5)] for group in GROUPS])
    values = np.where(members, loss[:, None, :], np.nan)
    return Panel(
        method="average",
        settings=tuple(f"s{index}" for index in range(len(loss))),
        groups=tuple(map(str, GROUPS)),
        tasks=tuple("abcde"),
        members=members,
        num_examples=np.ones(5),
        values=dict.fromkeys(COLUMNS, values),
        axes={},
    )


def fitted(x: Array, loss: Array, residual: float) -> Surrogate:
    features = np.repeat(x[:, None, None], len(GROUPS), axis=1)
    return fit_surrogate(
        panel(loss),
        features=features,
        end_errors=np.zeros(len(x) - len(loss)),
        residuals=np.full((len(loss), len(GROUPS)), residual),
    )


def test_a_straight_line_is_continued_and_its_uncertainty_grows() -> None:
    """Candidates far from the tried settings have wider intervals."""
    x = np.array([*range(NUM_SETTINGS), 2.5, 6.0, 12.0])
    loss = np.repeat(3 - 0.1 * x[:NUM_SETTINGS, None], 5, axis=1)
    found = fitted(x, loss, residual=0.02)
    assert found.mean == pytest.approx([2.75, 2.4, 1.8], abs=0.01)
    widths = found.half_width(0.95)
    assert widths[0] < widths[1] < widths[2]
    chances = found.chance_below(2.5)
    assert chances[0] < 0.01
    assert chances[2] > 0.99
    assert found.is_apart(0, 2)


def test_slopes_that_differ_between_tasks_widen_the_interval_as_theory_says() -> None:
    """The variance of the mean slope over five tasks is that of the slopes over five.

    Random weights of tasks keep it, though every group has three of them and shares two.
    """
    slopes = np.array([-0.3, -0.1, 0.0, 0.1, 0.3])
    x = np.arange(NUM_SETTINGS + 1.0)
    loss = 2 + x[:NUM_SETTINGS, None] * slopes
    found = fitted(x, loss, residual=0.0)
    offset = x[-1] - x[:NUM_SETTINGS].mean()
    expected = offset * np.sqrt((slopes**2).mean() / 5)
    assert np.sqrt(found.variance[0]) == pytest.approx(expected, rel=0.35)

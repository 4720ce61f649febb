import math

import numpy as np
import pytest

from orchestrator.theory.evidence.calibration import Calibration, calibrate

NUMBERS = np.array([1e-8, 1e-7, 1e-6, 1e-5, 1e-4])
AXES = {"lr": [0, 1, 2], "steps": [2, 3, 4]}


def fitted(numbers: np.ndarray, excess: np.ndarray) -> Calibration:
    found = calibrate(numbers, excess, axes=AXES)
    assert isinstance(found, Calibration)
    return found


def test_a_power_law_is_found() -> None:
    """Excess = 100 x number^0.25: A = 2, C = 0.25, no error, held out or not."""
    found = fitted(NUMBERS, 100 * NUMBERS**0.25)
    assert (found.intercept, found.slope, found.r_squared) == pytest.approx((2, 0.25, 1))
    assert (found.error, found.error_left_out) == pytest.approx((0, 0), abs=1e-12)


def test_one_outlier_moves_the_line_less_than_least_squares() -> None:
    """Huber's loss: one of nine points, at the end, is ten times too high."""
    numbers = np.logspace(-8, 0, 9)
    excess = numbers**0.5 * 10 ** (0.01 * np.array([1, -1, 2, -2, 1, -2, 1, -1, 0]))
    excess[-1] *= 10
    found = calibrate(numbers, excess, axes={"lr": range(9)})
    assert isinstance(found, Calibration)
    plain = float(np.polyfit(np.log10(numbers), np.log10(excess), 1)[0])
    assert abs(found.slope - 0.5) < 0.9 * abs(plain - 0.5)
    assert math.isnan(found.error_left_out)


def test_an_axis_that_turns_is_predicted_badly_without_it() -> None:
    """Falling along one axis and rising along the other: left out, each is missed by decades."""
    excess = np.array([1e-3, 1e-2, 1e-1, 1e-2, 1e-3])
    found = fitted(NUMBERS, excess)
    assert found.error_left_out > 2 * found.error
    assert abs(found.slope) < 0.1


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        (NUMBERS[:3], "3 settings share groups; a calibration needs 4"),
        (-NUMBERS, "a logarithm needs numbers above 0"),
        (np.ones(5), "its number is the same at all settings"),
    ],
)
def test_what_cannot_be_calibrated_has_its_reason(numbers: np.ndarray, reason: str) -> None:
    """Too few settings, signs, and a formula that the study does not vary."""
    assert calibrate(numbers, np.arange(1.0, len(numbers) + 1), axes=AXES) == reason

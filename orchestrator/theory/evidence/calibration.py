"""Fits measured excess losses to the numbers of a formula, on logarithms.

    log10 excess = A + C log10 number

A formula whose scale is worth nothing may still have the right order and the right power: C = 1
says that the measured excess is proportional to it, and R^2 how much of the differences it
explains. There is one fit for each method and formula, to the means of the settings, all axes
together: on the raw scale, an axis with a large range, such as the learning rate's, would decide
alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from eval.counts import counted
from orchestrator.theory.panel import Array

MIN_SETTINGS = 4
"""With three settings, a line has one left to be tested on."""
_TUNING = 1.345
"""Huber's constant: 95 % efficient for normal errors (Huber 1964, as statsmodels has it)."""
_MAD_TO_SD = 1.4826


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The line that relates a formula to the measured excess, in decades."""

    intercept: float
    """A."""
    slope: float
    """C."""
    r_squared: float
    """The share of the excess's variance that the line explains."""
    error: float
    """Root mean square error, in decades."""
    error_left_out: float
    """The same with each axis's own settings predicted from the others; NaN for a single axis."""


def calibrate(
    numbers: Array, excess: Array, *, axes: Mapping[str, Sequence[int]]
) -> Calibration | str:
    """Returns the calibration, or the reason why there is none.

    Args:
        numbers: (S,), the formula's mean at each setting.
        excess: (S,), the measured mean.
        axes: The settings of each axis, by index.
    """
    if len(numbers) < MIN_SETTINGS:
        verb = "shares" if len(numbers) == 1 else "share"
        settings = counted(len(numbers), "setting")
        return f"{settings} {verb} groups; a calibration needs {MIN_SETTINGS}"
    if not (numbers > 0).all() or not (excess > 0).all():
        return "a logarithm needs numbers above 0"
    x, y = np.log10(numbers), np.log10(excess)
    if np.ptp(x) < 1e-9 * max(1.0, float(np.abs(x).max())):
        return "its number is the same at all settings"
    line = _huber(x, y)
    errors = y - line[0] - line[1] * x
    variance = float(((y - y.mean()) ** 2).sum())
    return Calibration(
        intercept=float(line[0]),
        slope=float(line[1]),
        r_squared=1 - float((errors**2).sum()) / variance if variance > 0 else math.nan,
        error=_rms(errors),
        error_left_out=_left_out(x, y, axes=axes),
    )


def _left_out(x: Array, y: Array, *, axes: Mapping[str, Sequence[int]]) -> float:
    """Returns the error of settings that were predicted without their axis.

    A setting of several axes, as the defaults, is never left out.
    """
    errors = []
    for axis, settings in axes.items():
        others = {each for name, rest in axes.items() if name != axis for each in rest}
        own = [each for each in dict.fromkeys(settings) if each not in others]
        rest = [each for each in range(len(x)) if each not in own]
        if own and len(rest) >= MIN_SETTINGS - 1 and np.ptp(x[rest]) > 0:
            line = _huber(x[rest], y[rest])
            errors.extend(y[own] - line[0] - line[1] * x[own])
    return _rms(np.array(errors)) if errors else math.nan


def _huber(x: Array, y: Array) -> Array:
    """Returns intercept and slope by Huber's loss, begun at least squares.

    The scale is the median absolute residual of least squares; residuals of 0 need no other fit.
    """
    basis = np.stack([np.ones_like(x), x], axis=1)
    start: Array = np.asarray(np.linalg.lstsq(basis, y, rcond=None)[0], dtype=np.float64)
    scale = _MAD_TO_SD * float(np.median(np.abs(y - basis @ start)))
    if scale < 1e-9:  # noqa: PLR2004 decades
        return start
    fitted = scipy.optimize.least_squares(
        lambda line: basis @ line - y, start, loss="huber", f_scale=_TUNING * scale
    )
    return np.asarray(fitted.x, dtype=np.float64)


def _rms(errors: Array) -> float:
    return float(np.sqrt((errors**2).mean()))

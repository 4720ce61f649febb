"""The forms of laws that are fitted to a loss along an axis, and their fits by least squares.

A form that is linear in its parameters has one solution. The others have one parameter, `b` or `p`,
that is searched on a grid and refined; the rest then is linear (variable projection, Golub and
Pereyra 1973). All errors are in nats per image, also for the power law, which is fitted to the
logarithm of the loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy

from orchestrator.theory.panel import Array

Basis = Callable[[Array, float], Array]
"""Returns the columns of a linear fit, as (n, k), for values x and the searched parameter."""

_GRID = 40  # points of the first search for a parameter, over its whole range


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of a law, y as a function of x."""

    name: str
    formula: str
    basis: Basis
    num_linear: int
    is_log: bool = False
    """Whether the logarithm of y is fitted."""
    searched: tuple[float, float] | None = None
    """The range of the parameter that is searched, as multiples of the values' scale (`b`) or as it
    is (`p`); None for none."""
    is_scaled: bool = False
    """Whether the range of the searched parameter is a multiple of the largest x."""

    @property
    def num_params(self) -> int:
        """The number of fitted parameters."""
        return self.num_linear + (self.searched is not None)

    def fit(self, x: Array, y: Array) -> Array:
        """Returns the parameters, the searched one last, as (num_params,)."""
        target = np.asarray(np.log(y) if self.is_log else y, dtype=np.float64)
        if self.searched is None:
            return self._linear(x, target, 0.0)
        low, high = (np.log(each * (x.max() if self.is_scaled else 1.0)) for each in self.searched)

        def squared_error(log_parameter: float) -> float:
            parameter = float(np.exp(log_parameter))
            linear = self._linear(x, target, parameter)
            return float(((self.basis(x, parameter) @ linear - target) ** 2).sum())

        grid = np.linspace(low, high, _GRID)
        at = int(np.argmin([squared_error(each) for each in grid]))
        bounds = (grid[max(0, at - 1)], grid[min(_GRID - 1, at + 1)])
        found = scipy.optimize.minimize_scalar(squared_error, bounds=bounds, method="bounded")
        parameter = float(np.exp(found.x))
        return np.append(self._linear(x, target, parameter), parameter)

    def predict(self, params: Array, x: Array) -> Array:
        """Returns y at values x, as (n,)."""
        searched = float(params[-1]) if self.searched is not None else 0.0
        y: Array = self.basis(x, searched) @ params[: self.num_linear]
        return np.exp(y) if self.is_log else y

    def _linear(self, x: Array, target: Array, searched: float) -> Array:
        solution = np.linalg.lstsq(self.basis(x, searched), target, rcond=None)[0]
        return np.asarray(solution, dtype=np.float64)


def _one(x: Array) -> Array:
    return np.ones_like(x)


FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        Form(name="constant", formula="a", basis=lambda x, _: np.stack([_one(x)], 1), num_linear=1),
        Form(
            name="line",
            formula="a + b x",
            basis=lambda x, _: np.stack([_one(x), x], 1),
            num_linear=2,
        ),
        Form(
            name="logarithm",
            formula="a + b ln x",
            basis=lambda x, _: np.stack([_one(x), np.log(x)], 1),
            num_linear=2,
        ),
        Form(
            name="power",
            formula="exp(a) x^b",
            basis=lambda x, _: np.stack([_one(x), np.log(x)], 1),
            num_linear=2,
            is_log=True,
        ),
        Form(
            name="inverse",
            formula="c + a / x",
            basis=lambda x, _: np.stack([_one(x), 1 / x], 1),
            num_linear=2,
        ),
        Form(
            name="parabola",
            formula="a + b ln x + c (ln x)^2",
            basis=lambda x, _: np.stack([_one(x), np.log(x), np.log(x) ** 2], 1),
            num_linear=3,
        ),
        Form(
            name="floor_and_tail",
            formula="c + a / (x + b)",
            basis=lambda x, b: np.stack([_one(x), 1 / (x + b)], 1),
            num_linear=2,
            searched=(1e-3, 1e3),
            is_scaled=True,
        ),
        Form(
            name="saturating_power",
            formula="c + a x^-p",
            basis=lambda x, p: np.stack([_one(x), x**-p], 1),
            num_linear=2,
            searched=(0.05, 8.0),
        ),
    )
}
"""All forms by name, those with fewer parameters first."""

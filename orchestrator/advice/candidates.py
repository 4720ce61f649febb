"""Untried settings: a grid between the values that a study has tried, and one step beyond them."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.advice.tried import AXES, values_of
from workers.specs.hyperparameters import Hyperparameters

MAX_CANDIDATES = 1000
"""Most settings that are compared. A larger grid loses the values farthest from the best ones."""
_LARGEST = {"data_ratio": 1.0}
"""Greatest values; all of `AXES` are above 0."""
_WHOLE = ("batch_size", "steps")
"""Axes of whole numbers."""
_NEAR = 1.25
"""Neighbours that differ by less than this factor have no value between them."""

Values = Mapping[str, Sequence[Any]]
"""Candidate values by axis of `AXES`."""


def grid_values(tried: Sequence[Hyperparameters]) -> dict[str, list[Any]]:
    """Returns, for each axis that was varied, its values, those between, and one beyond each end.

    Between two values is their geometric mean; beyond the last is as large a factor as before it.
    All are rounded to two digits.
    """
    grid = {}
    for axis in AXES:
        values = sorted({getattr(point, axis) for point in tried})
        grid[axis] = values if len(values) == 1 else sorted({*values, *_new_values(axis, values)})
    return grid


def crossed(
    values: Values, *, tried: Sequence[Hyperparameters], best: Hyperparameters
) -> tuple[Hyperparameters, ...]:
    """Returns the untried combinations of some values, at most `MAX_CANDIDATES`.

    Args:
        values: Values by axis; an axis that is missing stays as it is at `best`.
        tried: The points that were tried; they are left out.
        best: The best of them. Values far from its own are dropped first.
    """
    every: dict[str, list[Any]] = {
        axis: list(values.get(axis, [getattr(best, axis)])) for axis in AXES
    }
    while math.prod(map(len, every.values())) > MAX_CANDIDATES:
        axis = max(AXES, key=lambda name: len(every[name]))
        every[axis].remove(max(every[axis], key=lambda value: _distance(axis, value, best)))
    seen = {values_of(point) for point in tried}
    return tuple(
        replace(best, **dict(zip(AXES, combination, strict=True)))
        for combination in itertools.product(*every.values())
        if combination not in seen and _can_be_trained(combination, best)
    )


def moved_axes(point: Hyperparameters, *, tried: Sequence[Hyperparameters]) -> int:
    """Returns on how many axes a point differs from the tried point that is most like it."""
    mine = values_of(point)
    return min(
        sum(one != other for one, other in zip(mine, values_of(each), strict=True))
        for each in tried
    )


def is_beyond(point: Hyperparameters, *, tried: Sequence[Hyperparameters]) -> bool:
    """Returns whether a value of a point lies outside the values that were tried."""
    return any(
        not min(values) <= getattr(point, axis) <= max(values)
        for axis in AXES
        for values in [[getattr(each, axis) for each in tried]]
    )


def _new_values(axis: str, values: Sequence[float]) -> Iterator[float]:
    pairs = list(itertools.pairwise(values))
    for low, high in pairs:
        if high / low > _NEAR:
            yield from _rounded(axis, math.sqrt(low * high), above=low, below=high)
    (first, second), (before, last) = pairs[0], pairs[-1]
    yield from _rounded(axis, first**2 / second, above=0, below=first)
    most = _LARGEST.get(axis, math.inf)
    beyond = min(last**2 / before, most)
    yield from _rounded(axis, beyond, above=last, below=math.inf)


def _rounded(axis: str, value: float, *, above: float, below: float) -> Iterator[float]:
    """Yields a value with two digits, if it still lies strictly between two others."""
    rounded = float(f"{value:.2g}")
    rounded = round(rounded) if axis in _WHOLE else rounded
    if above < rounded < below:
        yield rounded


def _distance(axis: str, value: float, best: Hyperparameters) -> float:
    return abs(math.log(value / getattr(best, axis)))


def _can_be_trained(combination: Sequence[Any], best: Hyperparameters) -> bool:
    """Returns whether the steps go beyond the warmup, where a schedule needs steps after it."""
    steps = dict(zip(AXES, combination, strict=True))["steps"]
    return bool(best.schedule == "constant" or steps > best.warmup_steps)

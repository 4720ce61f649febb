"""Untried settings: a grid between the values that a study has tried, and one step beyond them."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.advice.tried import AXES, values_of
from workers.specs.hyperparameters import Hyperparameters

MAX_CANDIDATES = 500
"""Most settings that are compared: those nearest to the best one."""
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
    """Returns the untried combinations of some values that `is_tested`, at most `MAX_CANDIDATES`.

    Args:
        values: Values by axis; an axis that is missing keeps the values tried.
        tried: The points that were tried; they are left out.
        best: The best of them. Combinations far from it are dropped first.
    """
    every: dict[str, list[Any]] = {
        axis: list(values.get(axis) or sorted({getattr(point, axis) for point in tried}))
        for axis in AXES
    }
    seen = {values_of(point) for point in tried}
    untried = (each for each in itertools.product(*every.values()) if each not in seen)
    points = [
        replace(best, **dict(zip(AXES, each, strict=True)))
        for each in untried
        if is_tested(each, tried=seen) and _can_be_trained(each, best)
    ]
    nearest = sorted(points, key=lambda point: _distance(point, best))[:MAX_CANDIDATES]
    kept = set(nearest)
    return tuple(point for point in points if point in kept)


def num_different(point: Hyperparameters, other: Hyperparameters) -> int:
    """Returns on how many axes two points differ."""
    return sum(mine != its for mine, its in zip(values_of(point), values_of(other), strict=True))


def is_tested(values: Sequence[Any], *, tried: Collection[Sequence[Any]]) -> bool:
    """Returns whether two tried points or more lie on a line with a point; all by their values.

    They then differ from it on one axis, the same for all. Elsewhere nothing in the study says how
    axes combine, for example whether the best learning rate falls as steps grow.
    """
    on_axis = [0] * len(AXES)
    for each in tried:
        apart = [
            at for at, (one, other) in enumerate(zip(values, each, strict=True)) if one != other
        ]
        if len(apart) == 1:
            on_axis[apart[0]] += 1
    return max(on_axis) >= 2  # noqa: PLR2004 one point has no direction


def is_beyond(point: Hyperparameters, *, tried: Sequence[Hyperparameters]) -> bool:
    """Returns whether a value of a point lies outside the values that were tried."""
    return any(
        not min(values) <= getattr(point, axis) <= max(values)
        for axis in AXES
        for values in [[getattr(each, axis) for each in tried]]
    )


def ends_before(point: Hyperparameters, *, tried: Sequence[Hyperparameters]) -> Iterator[int]:
    """Yields the tried points, by index, at the ends of the values that a point lies beyond.

    They have the value at the end, and another tried point differs from them on that axis alone, so
    that their own loss was predicted along it.
    """
    for axis in AXES:
        values = [getattr(each, axis) for each in tried]
        value = getattr(point, axis)
        if min(values) <= value <= max(values):
            continue
        end = min(values) if value < min(values) else max(values)
        for index, each in enumerate(tried):
            if getattr(each, axis) == end and any(
                getattr(other, axis) != end and num_different(other, each) == 1 for other in tried
            ):
                yield index


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


def _distance(point: Hyperparameters, best: Hyperparameters) -> float:
    """Returns the sum over the axes of the logarithm of the factor between two points."""
    pairs = zip(values_of(point), values_of(best), strict=True)
    return sum(abs(math.log(one / other)) for one, other in pairs)


def _can_be_trained(combination: Sequence[Any], best: Hyperparameters) -> bool:
    """Returns whether the steps go beyond the warmup, where a schedule needs steps after it."""
    steps = dict(zip(AXES, combination, strict=True))["steps"]
    return bool(best.schedule == "constant" or steps > best.warmup_steps)

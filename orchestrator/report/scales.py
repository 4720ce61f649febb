"""Where the values of an axis stand on the x axis of a figure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.results.means import CATEGORICAL_AXES, numbers_of, ordered_values

_DECADE = 10


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The x positions of an axis' values."""

    positions: dict[str, float]
    """Where each value stands, in order: its number, or its rank where values are names."""
    log: bool
    """Whether the positions belong on a logarithmic axis: positive, and a decade apart or more."""
    continuous: bool
    """Whether a line between two values means something."""

    def shifted(self, frac: float) -> "Scale":
        """Return the scale moved sideways by a fraction of its length."""
        at = list(self.positions.values())
        if self.log:
            factor = (at[-1] / at[0]) ** frac
            moved = {value: x * factor for value, x in self.positions.items()}
        else:
            step = (at[-1] - at[0] or 1.0) * frac
            moved = {value: x + step for value, x in self.positions.items()}
        return replace(self, positions=moved)

    def ranked(self) -> "Scale":
        """Return the scale with the values at equal distances, as bars need it."""
        ranks = {value: float(rank) for rank, value in enumerate(self.positions)}
        return Scale(positions=ranks, log=False, continuous=False)


def scale_of(axis: str, values: Sequence[str]) -> Scale:
    """Return the scale for the values of an axis; points of a grid or a draw are only names."""
    ordered = ordered_values(values)
    numbers = None if axis in CATEGORICAL_AXES else numbers_of(ordered)
    if numbers is None:
        ranks = {value: float(rank) for rank, value in enumerate(ordered)}
        return Scale(positions=ranks, log=False, continuous=False)
    return Scale(
        positions=dict(zip(ordered, numbers, strict=True)),
        log=spans_decade(numbers),
        continuous=True,
    )


def spans_decade(numbers: Sequence[float]) -> bool:
    """Tell whether all numbers are positive and the largest is at least ten times the smallest."""
    return bool(numbers) and min(numbers) > 0 and max(numbers) >= _DECADE * min(numbers)

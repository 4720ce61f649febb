"""What the parameters of all methods share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from merge.errors import ParameterErrors
from merge.ranges import Number, Numbers, problems_of, range_of

Consensus = Literal["sum", "mean"]
Scope = Literal["model", "tensor"]

SCALING = Number(at_least=0, at_most=10)
"""Published searches end at 3; ten bounds a slip of the decimal point and nothing else."""
DENSITY = Number(above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class MethodParams:
    """Holds what every method's parameters share: no value out of range ever exists.

    Raises:
        ParameterErrors: a value is out of its field's range; all such values are listed.
    """

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        problems = problems_of(type(self), values=values)
        if problems:
            raise ParameterErrors(type(self).__name__, problems=problems)
        for each in fields(self):
            # An id hashes the parameters, and 1 and 1.0 are one point of a sweep.
            if isinstance(range_of(each), Number):
                object.__setattr__(self, each.name, float(values[each.name]))
            if isinstance(range_of(each), Numbers):
                object.__setattr__(self, each.name, tuple(map(float, values[each.name])))

    @property
    def num_experts(self) -> int | None:
        """Number of experts that these values are for; None if they are for any number."""
        return None

    @property
    def reads_test_images(self) -> bool:
        """Whether these values read unlabelled test images beside what the method's card names."""
        return False

"""The base class and the common ranges of all methods' parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from merge.errors import ParameterErrors
from merge.ranges import Number, Numbers, problems_of, range_of

Consensus = Literal["sum", "mean"]
Scope = Literal["model", "tensor"]

SCALING = Number(at_least=-10, at_most=10)
"""Range of factors on merged task vectors. A negative factor unlearns the tasks (Ilharco 2022,
section 3, negation). Published searches end at 3; the bound 10 only catches a misplaced decimal
point."""
FACTOR = Number(at_least=0, at_most=10)
"""Range of factors that have no meaning below zero."""
DENSITY = Number(above=0, at_most=1)
"""Range of kept fractions."""
CHANCE = Number(at_least=1e-9, at_most=1)
"""Range of probabilities of keeping an entry. Below it, a model of a billion entries keeps none."""


@dataclass(frozen=True, kw_only=True)
class MethodParams:
    """The parameters of a method. An instance never holds a value outside its field's range.

    Raises:
        ParameterErrors: Values are out of their fields' ranges; the error lists all of them.
    """

    own = cast("Any", None)  # without annotation: dataclasses list annotated names
    """The `merge.own.NamedMethod` whose parameters these are, for a method that a user wrote; None
    for a method of the catalogue."""

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        problems = problems_of(type(self), values=values)
        if problems:
            raise ParameterErrors(type(self).__name__, problems=problems)
        for each in fields(self):
            # Ids hash the parameters, and 1 and 1.0 must give the same id.
            if isinstance(range_of(each), Number):
                object.__setattr__(self, each.name, float(values[each.name]))
            if isinstance(range_of(each), Numbers):
                object.__setattr__(self, each.name, tuple(map(float, values[each.name])))

    @property
    def num_experts(self) -> int | None:
        """Number of experts that these values need; None for any number."""
        return None

    @property
    def revision(self) -> int:
        """Version of the results of these values, which ids of merges hash unless it is 1.

        It is raised where the same values begin to give other results.
        """
        return 1

    @property
    def reads_test_images(self) -> bool:
        """Whether these values read unlabelled test images besides the data on the card."""
        return False

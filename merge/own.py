"""Methods that users write: a card and functions, as the methods of the catalogue have them.

A file with an `OwnMethod` is a method of a study (`docs/own-methods.md`):

    Median = OwnMethod(
        card=MethodCard(title="Median", paper="none", params=MedianParams),
        functions=Method(combine=combine),
    )
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merge.catalogue import MethodCard
    from merge.parameters.method_params import MethodParams
    from merge.protocols import Method


@dataclass(frozen=True, kw_only=True)
class OwnMethod:
    """A merging method that a user wrote."""

    card: MethodCard
    """Title, paper, parameters and data use, for checks and tables."""
    functions: Method
    """The functions that merge."""
    depends_on_order: bool = False
    """Whether another order of the experts changes the result by more than rounding."""


@dataclass(frozen=True, kw_only=True)
class NamedMethod:
    """A user's method under its name in tables."""

    name: str
    card: MethodCard
    functions: Method | None
    """None in a process that only checks parameters."""


def named(name: str, *, card: MethodCard, functions: Method | None) -> MethodCard:
    """Returns a card whose parameters know their method, so that they select it in a merge.

    The class of the parameters is a new subclass of the given card's.
    """
    params: type[MethodParams] = type(
        card.params.__name__, (card.params,), {"__doc__": card.params.__doc__}
    )
    bound = replace(card, params=params)
    params.own = NamedMethod(name=name, card=bound, functions=functions)
    return bound

"""The values that a parameter accepts, declared in the metadata of its dataclass field.

`allow` puts a range into the metadata, and `problems_of` checks values against it:

    density: float = field(default=0.2, metadata=allow(Number(above=0, at_most=1)))
"""

from __future__ import annotations

import math
import re
from dataclasses import Field, dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

from merge.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_KEY = "range"


class Range(Protocol):
    """A set of accepted values."""

    def accepts(self, value: object) -> bool:
        """Returns whether the value has the right type and lies in the range."""

    @property
    def allowed(self) -> str:
        """The range in words, for a user."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number. An int stands for the float of the same value; a bool is not accepted."""

    at_most: float
    at_least: float = -math.inf
    above: float = -math.inf

    def accepts(self, value: object) -> bool:
        """Returns whether the value is a number inside the bounds."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return value > self.above and self.at_least <= value <= self.at_most

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        lower = f"above {self.above:g}" if self.above > -math.inf else f"from {self.at_least:g}"
        return f"a number {lower} to {self.at_most:g}"


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A list of finite numbers with a positive sum, or the empty list.

    Only the ratios of the numbers count, so the bound only guards against typing errors. A negative
    number moves away from an expert.
    """

    at_most: float
    """Greatest magnitude."""

    def accepts(self, value: object) -> bool:
        """Returns whether the value is a list or tuple of numbers inside the bounds."""
        if not isinstance(value, (list, tuple)):
            return False
        number = Number(at_least=-self.at_most, at_most=self.at_most)
        return all(map(number.accepts, value)) and (not value or sum(value) > 0)

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        numbers = f"numbers from -{self.at_most:g} to {self.at_most:g} with a positive sum"
        return f"a list of {numbers}, or [] for equal ones"


@dataclass(frozen=True, kw_only=True)
class Count:
    """A whole number. Neither 1.0 nor a bool is accepted."""

    at_most: int
    at_least: int = 1

    def accepts(self, value: object) -> bool:
        """Returns whether the value is an int inside the bounds."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.at_least <= value <= self.at_most

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        return f"a whole number from {self.at_least} to {self.at_most}"


@dataclass(frozen=True, kw_only=True)
class Flag:
    """True or false. Neither 0 and 1 nor "yes" is accepted."""

    allowed: str = "true or false"

    def accepts(self, value: object) -> bool:
        """Returns whether the value is a bool."""
        return isinstance(value, bool)


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    options: tuple[str, ...]

    def accepts(self, value: object) -> bool:
        """Returns whether the value is one of the names."""
        return isinstance(value, str) and value in self.options

    @property
    def allowed(self) -> str:
        """The names in the order of their declaration."""
        return "one of " + ", ".join(self.options)


def allow(range_: Range) -> dict[str, Range]:
    """Returns the metadata that declares a field's range."""
    return {_KEY: range_}


def range_of(field: Field[Any]) -> Range:
    """Returns the range that a field declares."""
    declared: Range = field.metadata[_KEY]
    return declared


def problems_of(params_class: type[Any], *, values: Mapping[str, object]) -> list[Problem]:
    """Returns every unknown name and every value out of range, in the order of `values`."""
    ranges = {field.name: range_of(field) for field in fields(params_class)}
    problems = []
    for name, value in values.items():
        if name not in ranges:
            problems.append(Problem(field=name, value=value, allowed=_names(ranges, given=name)))
        elif not ranges[name].accepts(value):
            problems.append(Problem(field=name, value=value, allowed=ranges[name].allowed))
    return problems


def one_of(known: Mapping[str, object], *, given: str) -> str:
    """Returns the known names in words, with those similar to an unknown name as a suggestion."""
    close = similar(given, known=known)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"one of {', '.join(known)}{hint}"


def similar(given: str, *, known: Iterable[str]) -> list[str]:
    """Returns at most three known names that are spelled like a name, the most similar first.

    Neither capitals nor hyphens nor a last word *merging* count: users know `TIES-Merging` and
    `dare-ties` from papers and other tools.
    """
    spelled = {_spelling(name): name for name in known}
    if _spelling(given) in spelled:
        return [spelled[_spelling(given)]]
    return [spelled[each] for each in get_close_matches(_spelling(given), spelled, n=3)]


def _spelling(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", name.casefold()).removesuffix("_merging")


def _names(known: Mapping[str, object], *, given: str) -> str:
    if not known:
        return "this method takes no parameters"
    return f"the name must be {one_of(known, given=str(given))}"

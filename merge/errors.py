"""The errors of merging.

ValueError
└── MergeError                  the merge failed; no part of it is usable
    ├── ParameterErrors         a method's name or parameters are wrong; lists all problems
    ├── MismatchError           base and experts differ in names, shapes or dtypes
    ├── UnalignableError        the channels of this architecture cannot be matched
    ├── NonFiniteInputError     the base or an expert holds NaN or inf before merging
    ├── NonFiniteMergeError     a method turned finite inputs into NaN or inf
    └── InvalidStatisticsError  a merged running variance is negative

A merge whose accuracy is that of chance is a result, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_NAMES_SHOWN = 5
"""A wrong backbone differs in hundreds of tensors; the first five names identify it."""


class MergeError(ValueError):
    """The base, the experts and the options do not give a merge."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One error in a method's parameters."""

    field: str
    """Name of the parameter, or `method` if the method itself is unknown."""
    value: object
    """The given value."""
    allowed: str
    """The accepted values, in words."""

    def __str__(self) -> str:
        """Returns the problem in one line."""
        return f"{self.field}={self.value!r} is not allowed: {self.allowed}"


class ParameterErrors(MergeError):  # noqa: N818 one exception for all problems, like ExceptionGroup
    """Parameters are wrong; `problems` lists every problem, in the order of the parameters."""

    def __init__(self, method: str, *, problems: Sequence[Problem]) -> None:
        self.method = method
        self.problems = list(problems)
        super().__init__("\n".join(f"{method}: {problem}" for problem in self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        """Lets the error be pickled, since its constructor takes keywords."""
        return (_parameter_errors, (self.method, self.problems))


def _parameter_errors(method: str, problems: list[Problem]) -> ParameterErrors:
    return ParameterErrors(method, problems=problems)


class MismatchError(MergeError):
    """Base and experts differ in names, shapes or dtypes."""

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences = list(differences)
        super().__init__(self.differences)

    def __str__(self) -> str:
        """Returns the first differences and the number of further ones."""
        return f"base and experts do not match: {_first(self.differences, separator='; ')}"


class UnalignableError(MergeError):
    """No permutations are known that keep the function of a model of this architecture."""

    def __init__(self, reason: str, causes: Sequence[str]) -> None:
        self.reason = reason
        self.causes = list(causes)
        super().__init__(reason, self.causes)

    def __str__(self) -> str:
        """Returns the reason, the first tensors that cause it, and the number of further ones."""
        return f"channels cannot be matched: {self.reason}: {_first(self.causes, separator='; ')}"


class NonFiniteInputError(MergeError):
    """The base or an expert holds NaN or inf, so its merge would be meaningless."""


class NonFiniteMergeError(MergeError):
    """A merged tensor holds NaN or inf although every input was finite."""


class InvalidStatisticsError(MergeError):
    """A merged running variance is negative; normalizing with it would give NaN."""


def _first(entries: Sequence[str], *, separator: str) -> str:
    num_hidden = len(entries) - NUM_NAMES_SHOWN
    more = [f"and {num_hidden} more"] if num_hidden > 0 else []
    return separator.join([*entries[:NUM_NAMES_SHOWN], *more])

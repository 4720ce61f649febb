"""The errors of merging.

ValueError
└── MergeError                  nothing of the merge is usable
    ├── ParameterErrors         a method's name or parameters are wrong; lists all problems at once
    ├── MismatchError           base and experts do not have the same names, shapes and dtypes
    ├── UnalignableError        the channels of this architecture cannot be matched
    ├── NonFiniteInputError     the base or an expert holds NaN or inf before merging
    ├── NonFiniteMergeError     a method turned finite inputs into NaN or inf
    └── InvalidStatisticsError  a merged running variance is negative

A collapsed merge, at the accuracy of chance, is a result and no error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_NAMES_SHOWN = 5
"""A wrong backbone mismatches in hundreds of tensors; the first five tell which one it is."""


class MergeError(ValueError):
    """A merge cannot be made from what it was given."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a method's parameters."""

    field: str
    """Name of the parameter, or `method` when the method itself is unknown."""
    value: object
    """The value that was given."""
    allowed: str
    """What would have been accepted, in words."""

    def __str__(self) -> str:
        """Returns the problem as one line for a user."""
        return f"{self.field}={self.value!r} is not allowed: {self.allowed}"


class ParameterErrors(MergeError):  # noqa: N818 it stands for all of them, like ExceptionGroup
    """Parameters are wrong; `problems` lists every one of them, in the order they were given."""

    def __init__(self, method: str, *, problems: Sequence[Problem]) -> None:
        self.method = method
        self.problems = list(problems)
        super().__init__("\n".join(f"{method}: {problem}" for problem in self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        """Lets the error cross a process boundary, which rebuilds it from its parts."""
        return (_parameter_errors, (self.method, self.problems))


def _parameter_errors(method: str, problems: list[Problem]) -> ParameterErrors:
    return ParameterErrors(method, problems=problems)


class MismatchError(MergeError):
    """Base and experts differ in names, shapes or dtypes."""

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences = list(differences)
        super().__init__(self.differences)

    def __str__(self) -> str:
        """Returns the first differences and how many more there are."""
        return f"base and experts do not match: {_first(self.differences, separator='; ')}"


class UnalignableError(MergeError):
    """No permutations are known that leave a model of this architecture the same function."""

    def __init__(self, reason: str, causes: Sequence[str]) -> None:
        self.reason = reason
        self.causes = list(causes)
        super().__init__(reason, self.causes)

    def __str__(self) -> str:
        """Returns the reason, the first tensors that cause it, and how many more there are."""
        return f"channels cannot be matched: {self.reason}: {_first(self.causes, separator='; ')}"


class NonFiniteInputError(MergeError):
    """The base or an expert holds NaN or inf, so that no merge of it means anything."""


class NonFiniteMergeError(MergeError):
    """A merged tensor holds NaN or inf although every input was finite."""


class InvalidStatisticsError(MergeError):
    """A merged running variance is negative: normalizing with it gives NaN."""


def _first(entries: Sequence[str], *, separator: str) -> str:
    num_hidden = len(entries) - NUM_NAMES_SHOWN
    more = [f"and {num_hidden} more"] if num_hidden > 0 else []
    return separator.join([*entries[:NUM_NAMES_SHOWN], *more])

"""The errors of merging.

ValueError
└── MergeError                  the merge failed; no part of it is usable
    ├── ParameterErrors         a method's name or parameters are wrong; lists all problems
    ├── MismatchError           base and experts differ in names, shapes or dtypes
    ├── UnmergeableError        tensors hold codes of quantised weights, or no real numbers
    ├── UnalignableError        the channels of this architecture cannot be matched
    ├── NonFiniteInputError     the base or an expert holds NaN or inf before merging
    ├── NonFiniteMergeError     a method turned finite inputs into NaN or inf
    └── InvalidStatisticsError  a merged running variance is negative

A merge whose accuracy is that of chance is a result, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUM_NAMES_SHOWN = 5
"""A wrong backbone differs in hundreds of tensors; the first five names identify it."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of a base and of its experts, such as the paths of their files."""

    base: str = "the base"
    experts: Sequence[str] = ()
    """One name per expert; empty for `expert 1`, `expert 2` and so on."""

    def expert(self, index: int) -> str:
        """Returns the name of the expert at a position, which counts from 0."""
        return self.experts[index] if self.experts else f"expert {index + 1}"

    def of_experts(self, indices: Sequence[int]) -> Names:
        """Returns the names of the same base and only some experts, in the given order."""
        return replace(self, experts=[self.expert(index) for index in indices])


UNNAMED = Names()
"""Names for callers that know only positions."""


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
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    def _line(self, problem: Problem) -> str:
        return str(problem) if problem.field == "method" else f"{self.method}: {problem}"

    def __reduce__(self) -> tuple[object, ...]:
        """Lets the error be pickled, since its constructor takes keywords."""
        return (_parameter_errors, (self.method, self.problems))


def _parameter_errors(method: str, problems: list[Problem]) -> ParameterErrors:
    return ParameterErrors(method, problems=problems)


class MismatchError(MergeError):
    """Base and experts differ in names, shapes or dtypes."""

    def __init__(
        self, differences: Mapping[str, Sequence[str]], *, base: str, remedy: str = ""
    ) -> None:
        self.differences = {owner: list(each) for owner, each in differences.items()}
        self.base = base
        self.remedy = remedy
        super().__init__(self.differences, base, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Lets the error be pickled, since its constructor takes keywords."""
        return (_mismatch_error, (self.differences, self.base, self.remedy))

    def __str__(self) -> str:
        """Returns each expert's first differences and the number of further ones."""
        remedy = f"\n{self.remedy}" if self.remedy else ""
        differences = _by_owner(self.differences)
        return f"{self.base} and its experts do not match:\n{differences}{remedy}"


def _mismatch_error(
    differences: Mapping[str, Sequence[str]], base: str, remedy: str
) -> MismatchError:
    return MismatchError(differences, base=base, remedy=remedy)


CONVERT_TO_FLOATS = (
    "convert base and experts to float16, bfloat16 or float32 first (quantised weights: dequantise "
    "them)"
)


class UnmergeableError(MergeError):
    """Tensors whose numbers cannot be merged."""

    def __init__(
        self, causes: Mapping[str, Sequence[str]], remedy: str = CONVERT_TO_FLOATS
    ) -> None:
        self.causes = {owner: list(each) for owner, each in causes.items()}
        self.remedy = remedy
        super().__init__(self.causes, remedy)

    def __str__(self) -> str:
        """Returns each model's first tensors and the number of further ones."""
        return f"these tensors cannot be merged; {self.remedy}:\n{_by_owner(self.causes)}"


class UnalignableError(MergeError):
    """No permutations are known that keep the function of a model of this architecture."""

    def __init__(self, reason: str, causes: Sequence[str], owner: str = "the model") -> None:
        self.reason = reason
        self.causes = list(causes)
        self.owner = owner
        super().__init__(reason, self.causes, owner)

    def of(self, owner: str) -> UnalignableError:
        """Returns the same error with the name of the model."""
        return UnalignableError(self.reason, self.causes, owner)

    def __str__(self) -> str:
        """Returns the reason, the first tensors that cause it, and the number of further ones."""
        causes = _first(self.causes, separator="; ")
        return f"the channels of {self.owner} cannot be matched: {self.reason}: {causes}"


class NonFiniteInputError(MergeError):
    """The base or an expert holds NaN or inf, so its merge would be meaningless."""


class NonFiniteMergeError(MergeError):
    """A merged tensor holds NaN or inf although every input was finite."""


class InvalidStatisticsError(MergeError):
    """A merged running variance is negative; normalizing with it would give NaN."""


def _by_owner(entries: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(
        f"  {owner}: {_first(each, separator='; ')}" for owner, each in entries.items()
    )


def _first(entries: Sequence[str], *, separator: str) -> str:
    num_hidden = len(entries) - NUM_NAMES_SHOWN
    more = [f"and {num_hidden} more"] if num_hidden > 0 else []
    return separator.join([*entries[:NUM_NAMES_SHOWN], *more])

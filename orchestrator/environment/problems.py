"""The problems of environment variables, in words that a user can act on."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from orchestrator.study.problems import shown

Environment = Mapping[str, str]
"""Environment variables by their names."""


@dataclass(frozen=True, kw_only=True)
class VariableProblem:
    """One environment variable that cannot be used."""

    name: str
    value: str
    fault: str
    """The problem, after the words `NAME is 'value', `."""
    remedy: str
    """A right value, and how to do without the variable."""

    def __str__(self) -> str:
        """Returns the line that a user reads."""
        return f"{self.name} is {shown(self.value)}, {self.fault}; {self.remedy}"


class VariableError(ValueError):
    """Environment variables cannot be used; nothing was started."""

    def __init__(self, problems: Iterable[VariableProblem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NoRoomError(ValueError):
    """A worker's share is larger than this machine, so no trial would ever start."""


def check_all(readers: Iterable[Callable[[Environment], object]], environment: Environment) -> None:
    """Calls functions that each read variables, and reports the problems of all at once.

    Raises:
        VariableError: Some variables cannot be used; the error lists every problem.
    """
    problems: list[VariableProblem] = []
    for read in readers:
        try:
            read(environment)
        except VariableError as error:
            problems += error.problems
    if problems:
        raise VariableError(problems)

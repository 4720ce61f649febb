"""What is wrong with a study, all of it at once, in words a user can act on."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class StudyProblem:
    """One thing to mend in a study file."""

    field: str
    """Path of the field: `finetune.axes.lr[1]`."""
    value: str
    """What stands there."""
    allowed: str
    """What would be right."""

    def __str__(self) -> str:
        """Returns the line that a user reads."""
        return f"{self.field}: {self.value} is not allowed; {self.allowed}"


class StudyError(ValueError):
    """A study file cannot be used; nothing was started."""

    def __init__(self, source: str | Path, *, problems: Sequence[StudyProblem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{source}: {count} problem{'s' * (count != 1)}\n{lines}")


def suggest(wrong: str, *, known: Iterable[str]) -> str:
    """Says what is known, the closest first."""
    names = list(known)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"

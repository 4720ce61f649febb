"""The problems of a study file, in words that a user can act on."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from merge.ranges import similar
from orchestrator.study.credentials import masked

MAX_SHOWN_CHARS = 80
"""Longer values are cut in messages."""


@dataclass(frozen=True, kw_only=True)
class StudyProblem:
    """One problem of a study file."""

    field: str
    """Path of the field: `finetune.axes.lr[1]`."""
    fault: str
    """The problem: `-1 is not allowed` or `unknown field`."""
    remedy: str
    """The correction: `expected 1 or more`."""

    def __str__(self) -> str:
        """Returns the line that a user reads."""
        return f"{self.field}: {self.fault}; {self.remedy}"


class StudyError(ValueError):
    """A study file that cannot be used; nothing was started."""

    def __init__(self, source: str | Path, *, problems: Sequence[StudyProblem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{source}: {count} problem{'s' * (count != 1)}\n{lines}")


def wrong_value(field: str, value: object, *, remedy: str) -> StudyProblem:
    """Returns the problem of a value that is not allowed."""
    return StudyProblem(field=field, fault=f"{shown(value)} is not allowed", remedy=remedy)


def shown(value: object) -> str:
    """Returns a value as messages show it: without credentials, and cut if it is long."""
    is_word = value is None or isinstance(value, bool)
    text = masked(json.dumps(value) if is_word else repr(value))  # true and null, as in YAML
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."


def suggest(wrong: str, *, known: Iterable[str], kind: str) -> str:
    """Returns the remedy for an unknown name: a similar name, if one exists, and all known names.

    Args:
        wrong: The unknown name.
        known: All known names.
        kind: The plural noun for them: `fields`.
    """
    names = list(known)
    close = similar(wrong, known=names)
    listed = f"nown {kind}: {', '.join(names)}"
    return f"did you mean {close[0]!r}? K{listed}" if close else f"k{listed}"

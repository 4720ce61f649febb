"""The problems of a study file, in words that a user can act on."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from eval.file_tree import printable
from merge.ranges import similar
from orchestrator.study.credentials import masked
from orchestrator.study.few_lines import few_lines

MAX_SHOWN_CHARS = 80
"""Longer values are cut in messages."""
_PART = re.compile(r"\.?(?P<name>[^.\[\]]+)|\[(?P<index>\d+)\]")
"""A step of a field's path: a name, or a position in a list."""


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
        """Returns the line that a user reads; a line feed in a path or name is spelt."""
        return printable(f"{self.field}: {self.fault}; {self.remedy}")


class StudyError(ValueError):
    """A study file that cannot be used; nothing was started."""

    def __init__(self, source: str | Path, *, problems: Sequence[StudyProblem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  {line}" for line in few_lines(map(str, self.problems)))
        count = len(self.problems)
        super().__init__(f"{source}: {count} problem{'s' * (count != 1)}\n{lines}")


def wrong_value(field: str, value: object, *, remedy: str) -> StudyProblem:
    """Returns the problem of a value that is not allowed."""
    return StudyProblem(field=field, fault=f"{shown(value)} is not allowed", remedy=remedy)


def as_written(field: str, values: object) -> str:
    """Returns a field's path in the words of the study file, without the names of shorthands.

    Where the file has `tasks: [NAME]`, the schema's field `tasks.names[0]` is written `tasks[0]`.

    Args:
        field: A path of the schema.
        values: The content of the study file.
    """
    parts = list(_PART.finditer(field))
    if "".join(part[0] for part in parts) != field:
        return field  # a name that a user chose has brackets or dots
    written, at = "", values
    for found in parts:
        name, index = found["name"], found["index"]
        if name is not None and isinstance(at, str | list):
            continue  # the file has the value itself in place of a section
        written += found[0]
        if name is not None:
            at = at.get(name) if isinstance(at, dict) else None
        else:
            at = at[int(index)] if isinstance(at, list) and int(index) < len(at) else None
    return written


def shown(value: object) -> str:
    """Returns a value as messages show it: without credentials, and cut if it is long."""
    is_word = value is None or isinstance(value, bool)
    is_date = isinstance(value, date)
    written = json.dumps(value) if is_word else str(value) if is_date else repr(value)  # as in YAML
    text = masked(written)
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

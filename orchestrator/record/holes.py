"""What a study should have and has not."""

from dataclasses import dataclass

LEFT_OUT = "not run (budget)"
"""The outcome of what the study's budget has no room for."""


@dataclass(frozen=True, kw_only=True)
class Hole:
    """One expert or merge that is missing from the results, and why."""

    kind: str
    """The outcome: `failed`, `diverged`, `not run`, `not run (budget)`."""
    what: str
    """Which trial or merge job, with its id."""
    reason: str
    """Why, in words; for `not run`, what blocked it."""

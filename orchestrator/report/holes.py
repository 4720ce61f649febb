"""What a study should have and has not."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Hole:
    """One expert or merge that is missing from the results, and why."""

    kind: str
    """The outcome: `failed`, `diverged`, `not run`."""
    what: str
    """Which trial or merge job, with its id."""
    reason: str
    """Why, in words; for `not run`, what blocked it."""

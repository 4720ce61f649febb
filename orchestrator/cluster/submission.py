"""A submission: one attempt at a study as a job of a Ray cluster, by its Jobs API.

SubmitError
├── ClusterAccessError   the cluster does not answer, wants a token, or is of another version
└── NoSubmissionError    the cluster knows no submission of the study
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

STUDY_KEY = "mergesweep_study"
STORE_KEY = "mergesweep_store"
"""Keys of a submission's metadata, which everyone with access to the cluster may read."""

SUBMITTED_FILE = "submission.json"
"""What the job is told, beside the study."""
CHECKED = "checked:"
"""Begins the line that the job prints when its nodes can run the study, before it schedules."""
PROBLEM = "error:"
"""Begins every line that says why it does not."""
COMMAND = "exec python -m orchestrator.cli.job_main"
"""What the head runs; without a shell in between, which would take the signal to stop."""

_ID = re.compile(r"(?P<study>.+)-(?P<attempt>\d+)")


class SubmitError(Exception):
    """A study cannot be submitted; the message says what to do."""


class ClusterAccessError(SubmitError):
    """The cluster does not answer, wants a token, or is of another version."""


class NoSubmissionError(SubmitError):
    """The cluster knows no submission of the study."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a cluster knows of one attempt at a study."""

    id: str
    """`<study>-<attempt>`."""
    study: str
    attempt: int
    store_url: str
    """Absolute; without credentials, as every store's URL."""
    state: str
    """Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    """Ray's words on how it is or how it ended."""
    started_at_s: float
    """When it was submitted, in seconds since 1970 by the head's clock."""
    exit_code: int | None
    """The command's, once it has ended by itself."""

    @property
    def is_over(self) -> bool:
        """Tells whether it has ended, in whatever way."""
        return self.state not in ("PENDING", "RUNNING")


class Submissions(Protocol):
    """What is asked of a cluster's Jobs API; every method may raise `ClusterAccessError`."""

    @property
    def address(self) -> str:
        """The head's dashboard, `http://host:port`."""

    def find_all(self) -> list[Submission]:
        """Returns every submission of a study that the cluster remembers."""

    def find(self, submission_id: str) -> Submission:
        """Returns one submission as it is now.

        Raises:
            NoSubmissionError: The cluster does not know it.
        """

    def submit(
        self, submission_id: str, *, command: str, folder: Path, metadata: Mapping[str, str]
    ) -> bool:
        """Uploads a folder and starts a command in it on the head.

        Returns:
            False if the id is taken, which changes nothing.
        """

    def stop(self, submission_id: str) -> None:
        """Sends the command SIGTERM, and SIGKILL if it has not ended after `STOP_WAIT_S`."""

    def log(self, submission_id: str) -> str:
        """Returns what the command has printed."""

    def follow(self, submission_id: str) -> Iterator[str]:
        """Yields what the command has printed and prints, until it has ended."""


def submission_id(study: str, *, attempt: int) -> str:
    """Returns how a study's attempt is called on a cluster."""
    return f"{study}-{attempt}"


def attempt_of(name: str, *, study: str) -> int | None:
    """Returns the attempt that a submission's id says, None if it is not one of the study's."""
    match = _ID.fullmatch(name)
    return int(match["attempt"]) if match and match["study"] == study else None


def newest_of(submissions: Iterable[Submission], *, study: str) -> Submission | None:
    """Returns the last attempt at a study, None if there is none."""
    of_study = [each for each in submissions if each.study == study]
    return max(of_study, key=lambda each: each.attempt, default=None)

"""Describes submissions: attempts to run a study as a job of a Ray cluster, by its Jobs API.

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
"""Keys of a submission's metadata, which everyone with access to the cluster can read."""

JOB_INPUT_FILE = "submission.json"
"""The job's input beside the study: the store's URL and the paths that nodes must have."""
CHECKED = "checked:"
"""The beginning of the line that the job prints when the nodes can run the study, before it
schedules anything."""
PROBLEM = "error:"
"""The beginning of each line that says why the study cannot run."""
COMMAND = "exec python -m orchestrator.cli.job_main"
"""The command on the head. `exec` removes the shell, which would catch the signal to stop."""

_ID = re.compile(r"(?P<study>.+)-(?P<attempt>\d+)")


class SubmitError(Exception):
    """A study cannot be submitted; the message says what to do."""


class ClusterAccessError(SubmitError):
    """The cluster does not answer, wants a token, or is of another version."""


class NoSubmissionError(SubmitError):
    """The cluster knows no submission of the study."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One attempt to run a study, as a cluster reports it."""

    id: str
    """`<study>-<attempt>`."""
    study: str
    attempt: int
    store_url: str
    """Absolute. It has no credentials, like every store's URL."""
    state: str
    """Ray's state: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    """Ray's explanation of the state."""
    exit_code: int | None
    """The command's exit code, once it has ended by itself."""

    @property
    def is_over(self) -> bool:
        """Returns whether the submission has ended, in whatever way."""
        return self.state not in ("PENDING", "RUNNING")


class Submissions(Protocol):
    """The operations on a cluster's Jobs API; every method may raise `ClusterAccessError`."""

    @property
    def address(self) -> str:
        """Returns the URL of the head's dashboard, `http://host:port`."""

    def find_all(self) -> list[Submission]:
        """Returns every submission of a study that the cluster remembers."""

    def find(self, submission_id: str) -> Submission:
        """Returns the present state of one submission.

        Raises:
            NoSubmissionError: The cluster does not know it.
        """

    def submit(
        self, submission_id: str, *, command: str, folder: Path, metadata: Mapping[str, str]
    ) -> bool:
        """Uploads a folder and starts a command in it on the head.

        Returns:
            False if the id is taken; nothing has changed then.
        """

    def stop(self, submission_id: str) -> None:
        """Sends the command SIGTERM, and SIGKILL if it has not ended after `STOP_WAIT_S`."""

    def log(self, submission_id: str) -> str:
        """Returns the command's output so far."""

    def follow(self, submission_id: str) -> Iterator[str]:
        """Yields the command's output, old and new, until it has ended."""


def submission_id(study: str, *, attempt: int) -> str:
    """Returns the id of an attempt on a cluster."""
    return f"{study}-{attempt}"


def attempt_of(name: str, *, study: str) -> int | None:
    """Returns the attempt in a submission's id, None if the id is not one of the study's."""
    match = _ID.fullmatch(name)
    return int(match["attempt"]) if match and match["study"] == study else None


def newest_of(submissions: Iterable[Submission], *, study: str) -> Submission | None:
    """Returns the newest attempt at a study, None if there is none."""
    of_study = [each for each in submissions if each.study == study]
    return max(of_study, key=lambda each: each.attempt, default=None)

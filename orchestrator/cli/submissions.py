"""Finds the submissions of a study on a cluster and waits for their end."""

from collections.abc import Callable

from orchestrator.cluster.submission import (
    NoSubmissionError,
    Submission,
    Submissions,
    newest_of,
)

LOOK_EVERY_S = 1.0


def find_submission(name: str, *, submissions: Submissions) -> Submission:
    """Returns the newest submission of a study.

    Raises:
        NoSubmissionError: The cluster knows none; the message names the studies that it knows.
    """
    found = submissions.find_all()
    newest = newest_of(found, study=name)
    if newest is None:
        names = ", ".join(sorted({each.study for each in found})) or "none"
        raise NoSubmissionError(
            f"{submissions.address} knows no submission of study {name!r}; studies there: {names}"
        )
    return newest


def wait_until_over(
    submission: Submission, *, submissions: Submissions, sleep: Callable[[float], None]
) -> Submission:
    """Waits until a submission has ended; returns it as it is then."""
    while not (now := submissions.find(submission.id)).is_over:
        sleep(LOOK_EVERY_S)
    return now

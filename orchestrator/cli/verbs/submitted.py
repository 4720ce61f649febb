"""`mergesweep logs` and `mergesweep stop`: read and stop a study's newest submission."""

import time
from collections.abc import Callable

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, INTERRUPTED
from orchestrator.cli.standard_streams import has_reader
from orchestrator.cli.submissions import wait_until_over
from orchestrator.cluster.submission import Submission, Submissions
from orchestrator.progress.say import say


def show_log(
    submission: Submission, *, submissions: Submissions, console: Console, is_following: bool
) -> int:
    """Prints the output of a submission, following it to its end if asked to."""
    try:
        follow = submissions.follow(submission.id) if is_following else None
        for part in follow or [submissions.log(submission.id)]:
            console.print(part, end="", soft_wrap=True)
            if not has_reader():
                break
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def stop_submission(
    submission: Submission,
    *,
    submissions: Submissions,
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Stops a submission and waits until it has ended; returns the exit code."""
    if submission.is_over:
        say(console, f"{submission.id} has ended already: {submission.state}")
        return DONE
    submissions.stop(submission.id)
    say(console, f"stopping {submission.id}: running trials leave checkpoints")
    ended = wait_until_over(submission, submissions=submissions, sleep=sleep)
    for line in submissions.log(submission.id).splitlines()[-2:]:
        say(console, f"  {line}")
    say(console, f"{ended.id} is {ended.state}; `mergesweep submit` goes on from there")
    return DONE

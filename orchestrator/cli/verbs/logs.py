"""`mergesweep logs`: print the output of a study's newest submission."""

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, INTERRUPTED
from orchestrator.cli.standard_streams import has_reader
from orchestrator.cluster.submission import Submission, Submissions


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

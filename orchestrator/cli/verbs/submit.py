"""What `mergesweep submit`, `logs` and `stop` do: a study as a job of a Ray cluster."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cluster.local_paths import local_problems, node_paths
from orchestrator.cluster.submission import (
    CHECKED,
    COMMAND,
    PROBLEM,
    STORE_KEY,
    STUDY_KEY,
    NoSubmissionError,
    Submission,
    Submissions,
    SubmitError,
    newest_of,
    submission_id,
)
from orchestrator.cluster.upload import checkout, shipped_folder
from orchestrator.progress.say import say
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import absolute_store, read_study
from orchestrator.study.schema import Study

LOOK_EVERY_S = 1.0
NUM_LINES_SHOWN = 15
"""Of the log of a submission that failed."""
_NO_PYTHON = 127
"""The shell's exit code for a command that it does not find."""


def read_remote_study(path: Path) -> Study:
    """Reads a study file for other machines; asks neither its store nor a cluster.

    Raises:
        StudyError: Something in it is wrong, or on this machine only; every such thing is listed.
    """
    study = read_study(path, checks_store=False)
    if problems := list(local_problems(study)):
        raise StudyError(path, problems=problems)
    return study


def submit_study(
    study: Study,
    *,
    text: str,
    submissions: Submissions,
    console: Console,
    is_waiting: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Submits a study, or finds that it runs already; returns the exit code.

    Args:
        study: One that `read_remote_study` has read.
        text: The study file, as written.
        submissions: The cluster's.
        console: Where to print.
        is_waiting: Print the log until the study has ended, and return its exit code.
        sleep: Waits.

    Raises:
        SubmitError: The cluster cannot run the study; nothing was scheduled.
    """
    running = newest_of(submissions.find_all(), study=study.name)
    if running is not None and not running.is_over:
        say(console, f"{running.id} is {running.state} on {submissions.address}: nothing submitted")
    else:
        running = _submit(study, text=text, before=running, submissions=submissions)
        say(console, f"submitted {running.id} to {submissions.address}; it checks the nodes first")
    _say_what_next(running, submissions=submissions, console=console)
    try:
        _wait_until_checked(running, submissions=submissions, console=console, sleep=sleep)
        if is_waiting:
            return _wait_until_over(running, submissions=submissions, console=console, sleep=sleep)
    except KeyboardInterrupt:
        say(console, f"{running.id} goes on; `mergesweep stop {study.name}` would stop it")
        return INTERRUPTED
    return DONE


def _submit(
    study: Study, *, text: str, before: Submission | None, submissions: Submissions
) -> Submission:
    store_url = absolute_store(study.store)
    told = {"store": store_url, "paths": node_paths(study)}
    attempt = 1 if before is None else before.attempt + 1
    name = submission_id(study.name, attempt=attempt)
    metadata = {STUDY_KEY: study.name, STORE_KEY: store_url}
    with shipped_folder(study_text=text, told=told, code=checkout()) as folder:
        # A name that is taken is that of someone who submits the study at this moment.
        submissions.submit(name, command=COMMAND, folder=folder, metadata=metadata)
    return submissions.find(name)


def _say_what_next(submission: Submission, *, submissions: Submissions, console: Console) -> None:
    options = f"{submission.study} --address {submissions.address}"
    for verb, what in (("watch", "how far it is"), ("logs", "what it prints"), ("stop", "stop it")):
        say(console, f"{what + ':':15} mergesweep {verb} {options}")


def _wait_until_checked(
    submission: Submission,
    *,
    submissions: Submissions,
    console: Console,
    sleep: Callable[[float], None],
) -> None:
    """Returns when the job has seen that the nodes can run the study, or has ended well.

    Raises:
        SubmitError: They cannot, or the job ended before it knew.
    """
    while True:
        now = submissions.find(submission.id)  # before its log, which then is whole if it is over
        log = submissions.log(submission.id)
        if checked := _line(log, beginning=CHECKED):
            say(console, checked)
            return
        if now.is_over:
            raise SubmitError(_reason(now, log=log))
        sleep(LOOK_EVERY_S)


def _wait_until_over(
    submission: Submission,
    *,
    submissions: Submissions,
    console: Console,
    sleep: Callable[[float], None],
) -> int:
    for part in submissions.follow(submission.id):
        console.out(part, end="", highlight=False)
    while not (now := submissions.find(submission.id)).is_over:
        sleep(LOOK_EVERY_S)
    return _exit_code(now)


def _exit_code(submission: Submission) -> int:
    if submission.exit_code is not None:
        return submission.exit_code
    return INTERRUPTED if submission.state == "STOPPED" else FAILED


def _reason(submission: Submission, *, log: str) -> str:
    """Says in a line why a submission ended before it began to work."""
    problems = [line.removeprefix(PROBLEM).strip() for line in _lines(log, beginning=PROBLEM)]
    if problems:
        return f"{submission.id}: {'; '.join(problems)}"
    if submission.exit_code == _NO_PYTHON:
        return f"{submission.id}: the head has no `python` on its path"
    if "No module named" in log and "orchestrator" in log:
        return f"{submission.id}: mergesweep is not installed on the head; install it on every node"
    if submission.state == "STOPPED":
        return f"{submission.id} was stopped before it began"
    message = " ".join(submission.message.split())
    return f"{submission.id} ended before it began: {message}"


def show_log(
    submission: Submission, *, submissions: Submissions, console: Console, is_following: bool
) -> int:
    """Prints what a submission has printed, and what it prints until it ends."""
    try:
        follow = submissions.follow(submission.id) if is_following else None
        for part in follow or [submissions.log(submission.id)]:
            console.out(part, end="", highlight=False)
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
    while not (now := submissions.find(submission.id)).is_over:
        sleep(LOOK_EVERY_S)
    for line in submissions.log(submission.id).splitlines()[-2:]:
        say(console, f"  {line}")
    say(console, f"{now.id} is {now.state}; `mergesweep submit` goes on from there")
    return DONE


def find_submission(name: str, *, submissions: Submissions) -> Submission:
    """Returns the last submission of a study.

    Raises:
        NoSubmissionError: There is none.
    """
    found = submissions.find_all()
    newest = newest_of(found, study=name)
    if newest is None:
        names = ", ".join(sorted({each.study for each in found})) or "none"
        raise NoSubmissionError(
            f"{submissions.address} knows no submission of study {name!r}; studies there: {names}"
        )
    return newest


def _line(log: str, *, beginning: str) -> str | None:
    return next(_lines(log, beginning=beginning), None)


def _lines(log: str, *, beginning: str) -> Iterator[str]:
    return (line for line in log.splitlines() if line.startswith(beginning))

"""`mergesweep submit`: run a study as a job on the head of a Ray cluster."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cli.submissions import LOOK_EVERY_S, wait_until_over
from orchestrator.cluster.submission import (
    CHECKED,
    COMMAND,
    PROBLEM,
    STORE_KEY,
    STUDY_KEY,
    Submission,
    Submissions,
    SubmitError,
    newest_of,
    submission_id,
)
from orchestrator.cluster.upload import checkout, upload_folder
from orchestrator.progress.say import say
from orchestrator.study.checks.lora import node_packages
from orchestrator.study.local_paths import local_problems, node_paths
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import absolute_store, read_study
from orchestrator.study.schema import Study

_COMMAND_NOT_FOUND = 127
"""The shell's exit code for a program that is not on its path."""


def read_remote_study(path: Path) -> tuple[Study, str]:
    """Reads a study file for other machines; contacts neither the store nor a cluster.

    Returns:
        The study, and the text of the file.

    Raises:
        StudyError: Something in the file is wrong, or exists on this machine only; the message
            lists every problem.
    """
    file = read_study(path, checks_store=False)
    if problems := list(local_problems(file.study)):
        raise StudyError(path, problems=problems)
    return file.study, file.text


def submit_study(
    study: Study,
    *,
    text: str,
    submissions: Submissions,
    console: Console,
    is_waiting: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Submits a study unless a submission of it runs already; returns the exit code.

    Args:
        study: A study that `read_remote_study` has returned.
        text: The study file, as written.
        submissions: The cluster's submissions.
        console: Where to print.
        is_waiting: Print the log until the study has ended, and return the study's exit code.
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
    _print_next_commands(running, submissions=submissions, console=console)
    try:
        _wait_until_checked(running, submissions=submissions, console=console, sleep=sleep)
        if is_waiting:
            for part in submissions.follow(running.id):
                console.print(part, end="", soft_wrap=True)
            return _exit_code(wait_until_over(running, submissions=submissions, sleep=sleep))
    except KeyboardInterrupt:
        stop = f"`mergesweep stop {study.name} --address {submissions.address}`"
        say(console, f"{running.id} keeps running; {stop} would stop it")
        return INTERRUPTED
    return DONE


def _submit(
    study: Study, *, text: str, before: Submission | None, submissions: Submissions
) -> Submission:
    store_url = absolute_store(study.store)
    own = (merge.own_method for merge in study.merge)
    packaged = {each.name: each.source for each in own if each is not None and each.sha256 is None}
    job_input = {
        "store": store_url,
        "paths": node_paths(study),
        "packages": node_packages(study.finetune),
        "methods": packaged,
    }
    attempt = 1 if before is None else before.attempt + 1
    name = submission_id(study.name, attempt=attempt)
    metadata = {STUDY_KEY: study.name, STORE_KEY: store_url}
    with upload_folder(study_text=text, job_input=job_input, code=checkout()) as folder:
        # If the id is taken, somebody else has submitted the study just now: theirs is followed.
        submissions.submit(name, command=COMMAND, folder=folder, metadata=metadata)
    return submissions.find(name)


def _print_next_commands(
    submission: Submission, *, submissions: Submissions, console: Console
) -> None:
    options = f"{submission.study} --address {submissions.address}"
    for verb, purpose in (("watch", "progress"), ("logs", "output"), ("stop", "stop it")):
        say(console, f"{purpose + ':':10} mergesweep {verb} {options}")


def _wait_until_checked(
    submission: Submission,
    *,
    submissions: Submissions,
    console: Console,
    sleep: Callable[[float], None],
) -> None:
    """Returns when the job has found that the nodes can run the study.

    Raises:
        SubmitError: The nodes cannot run it, or the job ended before it had checked them.
    """
    while True:
        # Asked before the log is read: the log of a job that is over is complete.
        now = submissions.find(submission.id)
        log = submissions.log(submission.id)
        if checked := next(_lines(log, beginning=CHECKED), None):
            say(console, checked)
            return
        if now.is_over:
            raise SubmitError(_reason(now, log=log))
        sleep(LOOK_EVERY_S)


def _exit_code(submission: Submission) -> int:
    if submission.exit_code is not None:
        return submission.exit_code
    return INTERRUPTED if submission.state == "STOPPED" else FAILED


def _reason(submission: Submission, *, log: str) -> str:
    """Returns in one line why a submission ended before it began to work."""
    problems = [line.removeprefix(PROBLEM).strip() for line in _lines(log, beginning=PROBLEM)]
    if problems:
        return f"{submission.id}: {'; '.join(problems)}"
    if submission.exit_code == _COMMAND_NOT_FOUND:
        return f"{submission.id}: the head has no `python` on its path"
    if "No module named" in log and "orchestrator" in log:
        return f"{submission.id}: mergesweep is not installed on the head; install it on every node"
    if submission.state == "STOPPED":
        return f"{submission.id} was stopped before it began"
    message = " ".join(submission.message.split())
    return f"{submission.id} ended before it began: {message}"


def _lines(log: str, *, beginning: str) -> Iterator[str]:
    return (line for line in log.splitlines() if line.startswith(beginning))

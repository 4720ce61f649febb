"""Declares the verbs on a study on a cluster: submit, status, watch, logs, stop."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from orchestrator.cli.options import (
    DEFAULT_STORE,
    bad_input,
    name_argument,
    new_console,
    not_empty,
    open_name,
    store_at,
    study_argument,
)

if TYPE_CHECKING:
    from orchestrator.cluster.submission import Submission, Submissions

_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's own environment variables, in the order in which Ray reads them."""

address_option = click.option(
    "--address",
    required=True,
    metavar="URL",
    envvar=_VARIABLES,
    show_envvar=True,
    help="The dashboard of the cluster's head, http://head:8265.",
)


def _http_only(
    context: click.Context, parameter: click.Parameter, address: str | None
) -> str | None:
    """Ignores values of RAY_ADDRESS that are meant for drivers, such as `auto`."""
    source = context.get_parameter_source(parameter.name or "")
    is_given = source is ParameterSource.COMMANDLINE
    return address if is_given or (address or "").startswith("http") else None


optional_address_option = click.option(
    "--address",
    metavar="URL",
    envvar=_VARIABLES,
    show_envvar=True,
    callback=_http_only,
    help="Also ask the cluster to which the study was submitted, http://head:8265.",
)
optional_store_option = click.option(
    "--store",
    callback=not_empty,
    help="The store that has the study; by default the store of its submission on the cluster at "
    f"--address, or else {DEFAULT_STORE}.",
)


@click.command()
@study_argument
@address_option
@click.option(
    "--wait", "is_waiting", is_flag=True, help="Print the study's output until it has ended."
)
def submit(study_file: Path, *, address: str, is_waiting: bool) -> None:
    """Run STUDY.yaml as a job on the head of a Ray cluster.

    Returns when the job has checked that the cluster's nodes can run the study. The same command
    again continues a study that has stopped, and leaves a running one alone. The study's store must
    be s3://. If the cluster uses token authentication, set RAY_AUTH_TOKEN.
    """
    from orchestrator.cli.verbs.submit import read_remote_study, submit_study

    with bad_input():
        study, text = read_remote_study(study_file)
        code = submit_study(
            study,
            text=text,
            submissions=_submissions(address),
            console=new_console(),
            is_waiting=is_waiting,
        )
    sys.exit(code)


@click.command()
@name_argument
@optional_store_option
@optional_address_option
def status(name: str, *, store: str | None, address: str | None) -> None:
    """Show the progress of study NAME, and what it lacks.

    Also shows who works on it.
    """
    from orchestrator.cli.study_watch import StudyWatch
    from orchestrator.cli.verbs.status import show_activity, show_status

    console = new_console()
    with bad_input():
        url, submissions = _store_and_submissions(name, store=store, address=address)
        activity = StudyWatch(store_at(url), name, submissions=submissions).look()
        show_activity(activity, console=console)
    opened = open_name(name, url, is_read_only=True)
    sys.exit(show_status(opened, console=console, is_running=activity.is_running))


@click.command()
@name_argument
@optional_store_option
@optional_address_option
def watch(name: str, *, store: str | None, address: str | None) -> None:
    """Watch the progress of study NAME until nobody works on it.

    Works from any machine: reads the progress that the driver writes to the store every few
    seconds, and writes nothing.
    Shows a panel on a terminal, a line every few seconds elsewhere. Ends with the study's status
    and the exit code of `status`.
    """
    from orchestrator.cli.verbs.watch import watch_study
    from orchestrator.study.reader import absolute_store

    with bad_input():
        url, submissions = _store_and_submissions(name, store=store, address=address)
        code = watch_study(
            name,
            store_url=absolute_store(url),
            submissions=submissions,
            console=new_console(),
        )
    sys.exit(code)


@click.command()
@name_argument
@address_option
@click.option("--follow", "-f", "is_following", is_flag=True, help="Keep printing until it ends.")
def logs(name: str, *, address: str, is_following: bool) -> None:
    """Print the output of the newest submission of study NAME."""
    from orchestrator.cli.verbs.submitted import show_log

    with bad_input():
        submissions = _submissions(address)
        code = show_log(
            _find(name, submissions),
            submissions=submissions,
            console=new_console(),
            is_following=is_following,
        )
    sys.exit(code)


@click.command()
@name_argument
@address_option
def stop(name: str, *, address: str) -> None:
    """Stop the submission of study NAME cleanly.

    Submitting it again continues from there.
    """
    from orchestrator.cli.verbs.submitted import stop_submission

    with bad_input():
        submissions = _submissions(address)
        code = stop_submission(
            _find(name, submissions), submissions=submissions, console=new_console()
        )
    sys.exit(code)


COMMANDS = (submit, status, watch, logs, stop)


def _submissions(address: str) -> "Submissions":
    """Connects to a cluster's dashboard.

    Raises:
        ClusterAccessError: It does not answer, or is none; the message names the variable that has
            the address, if it was not given on the command line.
    """
    from orchestrator.cluster.jobs_api import JobsApi
    from orchestrator.cluster.submission import ClusterAccessError

    try:
        return JobsApi(address)
    except ClusterAccessError as error:
        source = click.get_current_context().get_parameter_source("address")
        if source is not ParameterSource.ENVIRONMENT:
            raise
        name = next(each for each in _VARIABLES if os.environ.get(each))
        raise ClusterAccessError(
            f"{error} (the address is in the variable {name}; give --address, or `unset {name}`)"
        ) from error


def _store_and_submissions(
    name: str, *, store: str | None, address: str | None
) -> tuple[str, "Submissions | None"]:
    """Returns the URL of a study's store, and the submissions of the cluster to ask, if any."""
    submissions = _submissions(address) if address else None
    if store is None and submissions is not None:
        store = _find(name, submissions).store_url
    return store or DEFAULT_STORE, submissions


def _find(name: str, submissions: "Submissions") -> "Submission":
    from orchestrator.cli.submissions import find_submission

    return find_submission(name, submissions=submissions)

"""The verbs about a study on a cluster, and about how far one is."""

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
    open_name,
    store_at,
    study_argument,
)

if TYPE_CHECKING:
    from orchestrator.cluster.submission import Submission, Submissions

_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's own, in its order."""

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
    """Passes over what RAY_ADDRESS says to drivers, such as `auto`, where no address is needed."""
    source = context.get_parameter_source(parameter.name or "")
    is_given = source is ParameterSource.COMMANDLINE
    return address if is_given or (address or "").startswith("http") else None


known_address_option = click.option(
    "--address",
    metavar="URL",
    envvar=_VARIABLES,
    show_envvar=True,
    callback=_http_only,
    help="Ask the cluster too that the study was submitted to, http://head:8265.",
)
known_store_option = click.option(
    "--store",
    help="Where the study's artifacts are; as the cluster at the address says when left out, or "
    f"else {DEFAULT_STORE}.",
)


@click.command()
@study_argument
@address_option
@click.option(
    "--wait", "is_waiting", is_flag=True, help="Print what the study prints, until it has ended."
)
def submit(study_file: Path, *, address: str, is_waiting: bool) -> None:
    """Run STUDY.yaml, or what is left of it, on a Ray cluster, as a job on its head.

    Returns once the cluster's nodes were seen to be able to. The same command again goes on where
    the study stopped; while it runs, it is left alone. The study's store must be s3://. A cluster
    with token authentication takes RAY_AUTH_TOKEN.
    """
    from orchestrator.cli.verbs.submit import read_remote_study, submit_study

    with bad_input():
        study = read_remote_study(study_file)
        code = submit_study(
            study,
            text=study_file.read_text("utf-8"),
            submissions=_submissions(address),
            console=new_console(),
            is_waiting=is_waiting,
        )
    sys.exit(code)


@click.command()
@name_argument
@known_store_option
@known_address_option
def status(name: str, *, store: str | None, address: str | None) -> None:
    """Show how far study NAME is, who works on it, and what is missing."""
    from orchestrator.cli.verbs.status import show_status
    from orchestrator.cli.verbs.watch import StudyWatch, show_now

    console = new_console()
    with bad_input():
        url, submissions = _asked(name, store=store, address=address)
        show_now(StudyWatch(store_at(url), name, submissions=submissions).look(), console=console)
    sys.exit(show_status(open_name(name, url, is_read_only=True), console=console))


@click.command()
@name_argument
@known_store_option
@known_address_option
def watch(name: str, *, store: str | None, address: str | None) -> None:
    """Watch study NAME, from any machine, until nobody works on it.

    Reads what its driver leaves in the store every few seconds, and writes nothing. A panel on a
    terminal, a line every few seconds elsewhere; then its status, with the same exit code.
    """
    from orchestrator.cli.verbs.watch import watch_study
    from orchestrator.study.reader import absolute_store

    with bad_input():
        url, submissions = _asked(name, store=store, address=address)
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
@click.option("--follow", "-f", "is_following", is_flag=True, help="Go on until it has ended.")
def logs(name: str, *, address: str, is_following: bool) -> None:
    """Print what the last submission of study NAME has printed."""
    from orchestrator.cli.verbs.submit import show_log

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
    """Stop the submission of study NAME cleanly; submitting it again goes on from there."""
    from orchestrator.cli.verbs.submit import stop_submission

    with bad_input():
        submissions = _submissions(address)
        code = stop_submission(
            _find(name, submissions), submissions=submissions, console=new_console()
        )
    sys.exit(code)


COMMANDS = (submit, status, watch, logs, stop)


def _submissions(address: str) -> "Submissions":
    from orchestrator.cluster.jobs_api import JobsApi

    return JobsApi(address)


def _asked(
    name: str, *, store: str | None, address: str | None
) -> tuple[str, "Submissions | None"]:
    """Returns where a study's store is, and the submissions of the cluster to ask, if any."""
    submissions = _submissions(address) if address else None
    if store is None and submissions is not None:
        store = _find(name, submissions).store_url
    return store or DEFAULT_STORE, submissions


def _find(name: str, submissions: "Submissions") -> "Submission":
    from orchestrator.cli.verbs.submit import find_submission

    return find_submission(name, submissions=submissions)

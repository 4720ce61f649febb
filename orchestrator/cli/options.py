"""Options, consoles and ways to open a study that several verbs use."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eval.user_paths import is_file, is_there
from orchestrator.cli.exit_codes import BAD_INPUT

if TYPE_CHECKING:
    from orchestrator.progress.plain_console import PlainConsole
    from orchestrator.run.opened import OpenedStudy
    from workers.store.protocol import Store

DEFAULT_STORE = "./mergesweep-store"


def not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuses an option without a value, such as `--store "$STORE"` with an unset variable."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty", ctx=context, param=parameter)
    return value


def _not_a_file(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuses a study file in place of the study's name."""
    if value.endswith((".yaml", ".yml")) and is_file(value):
        text = f"{value!r} is a file; give the study's name, which is the field `name` in it"
        raise click.BadParameter(text, ctx=context, param=parameter)
    return value


def _not_a_name(context: click.Context, parameter: click.Parameter, value: Path) -> Path:
    """Refuses a study's name in place of its file."""
    if not value.suffix and not is_there(value):
        text = f"there is no file {str(value)!r}; give the study's file, such as study.yaml"
        raise click.BadParameter(text, ctx=context, param=parameter)
    return value


store_option = click.option(
    "--store",
    callback=not_empty,
    default=DEFAULT_STORE,
    show_default=True,
    help="The store: a directory, or s3://bucket/prefix.",
)
study_argument = click.argument(
    "study_file",
    metavar="STUDY.yaml",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_not_a_name,
)
name_argument = click.argument("name", metavar="NAME", callback=_not_a_file)
take_over_option = click.option(
    "--take-over",
    is_flag=True,
    help="Start at once, without checking whether another run of the study is alive: that run "
    "stops within seconds.",
)


class OutputPath(click.Path):
    """The name of a file to write. `results/` is the name of a folder, also where there is none."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 click's signature
        """Returns the path."""
        if isinstance(value, str) and not value.strip():
            self.fail("it is empty", param, ctx)
        if isinstance(value, str) and value.endswith(os.sep):
            self.fail(f"{value!r} is the name of a folder; name a file in it", param, ctx)
        return super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """A range of numbers without NaN, which is in every range of click's."""

    def convert(
        self,
        value: Any,  # noqa: ANN401 click's signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Returns the number of an option."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


class BadInputError(click.ClickException):
    """A file, an option or a name that the user gave cannot be used; the message says why."""

    exit_code = BAD_INPUT


def new_console(*, stderr: bool = False) -> "PlainConsole":
    """Returns a console on standard output, or on standard error."""
    from orchestrator.progress.plain_console import PlainConsole

    return PlainConsole(stderr=stderr)


def check_environment() -> None:
    """Checks the environment variables of a command that starts workers.

    Raises:
        BadInputError: Some cannot be used; the message lists all of them.
    """
    from eval.data_root import data_root
    from orchestrator.environment.ray_variables import check_ray_variables

    with bad_input():
        check_ray_variables(os.environ)
        data_root(None)


def open_file(path: Path, *, is_read_only: bool = False) -> "OpenedStudy":
    """Opens the study of a file.

    Args:
        path: The file.
        is_read_only: Do not even write an object to test the store.

    Raises:
        BadInputError: The file or the store cannot be used.
    """
    from orchestrator.progress.say import say
    from orchestrator.run.opened import open_study
    from orchestrator.study.checks.models import model_remarks, resized_models, unchecked_models
    from orchestrator.study.reader import read_study

    console = new_console(stderr=True)
    with bad_input():
        with console.status(f"checking {path}; a model that is new here takes some seconds"):
            file = read_study(path, is_read_only=is_read_only)
        for reason in unchecked_models(file.study):
            say(console, f"warning: {reason}")
        for remark in model_remarks(file.study):
            say(console, remark)
        return open_study(
            file.study,
            text=file.text,
            recorded=file.own_sources,
            resized=resized_models(file.study),
        )


def open_name(name: str, store: str, *, is_read_only: bool = False) -> "OpenedStudy":
    """Opens a study by its name in a store.

    Args:
        name: The study's name.
        store: The store's URL, as given on the command line.
        is_read_only: Do not even write an object to test the store.

    Raises:
        BadInputError: The store cannot be used, or has no usable study of this name.
    """
    from orchestrator.run.opened import open_by_name

    with bad_input():
        return open_by_name(name, store_url=store, is_read_only=is_read_only)


def require_constants(opened: "OpenedStudy") -> None:
    """Checks that a search with a prior has the constants that its candidates are drawn by.

    Raises:
        BadInputError: The store lacks them.
    """
    from orchestrator.run.growth import check_constants

    with bad_input():
        check_constants(opened.plan, store_url=opened.store_url)


def store_at(url: str) -> "Store":
    """Opens the store of a URL on the command line, and checks at once that it can be listed."""
    from orchestrator.study.reader import absolute_store
    from workers.store.opening import check_store, open_store

    location = absolute_store(url)
    check_store(location, writes=False)
    return open_store(location)


@contextmanager
def bad_input() -> Iterator[None]:
    """Turns errors that the user can mend into a message and exit code 2."""
    from eval.user_paths import NoHomeError
    from orchestrator.cluster.submission import SubmitError
    from orchestrator.environment.problems import VariableError
    from orchestrator.record.folder import StudyDamagedError, StudyNotFoundError
    from orchestrator.study.credentials import masked
    from orchestrator.study.problems import StudyError
    from workers.artifacts.layout import InvalidNameError
    from workers.store.machine_errors import NotPrivateError
    from workers.store.protocol import StoreError

    expected = (
        *(StudyError, StudyDamagedError, StudyNotFoundError, InvalidNameError, StoreError),
        *(SubmitError, VariableError, NoHomeError, NotPrivateError),
    )
    try:
        yield
    except expected as error:
        raise BadInputError(masked(str(error))) from error

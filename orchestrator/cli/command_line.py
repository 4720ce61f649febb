"""The command line, `mergesweep VERB`: its verbs, and the end of every one of them.

Whatever a verb raises ends here, as one message on standard error and one of the exit codes.
"""

import io
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from orchestrator.cli import cluster_verbs, file_verbs, model_verbs, study_verbs
from orchestrator.cli.exit_codes import DONE, FAILED, INTERRUPTED
from orchestrator.cli.signals import was_interrupted
from orchestrator.cli.standard_streams import output_failure
from orchestrator.progress.visible_text import one_line, visible
from orchestrator.study.credentials import masked
from workers.store.machine_errors import MachineError
from workers.store.private_directory import user_directory
from workers.store.protocol import StoreError

TRACEBACK_VARIABLE = "MERGESWEEP_TRACEBACK"
"""Environment variable that shows the traceback of an unexpected error on the terminal."""

_WORKING = ("run", "resume", "prepare", "track", "verify", "gc", "merge", "export", "score", "init")
"""Verbs whose work is done even if nobody could read of it."""


class CommandLine(click.Group):
    """The group of all verbs."""

    def main(self, args: Sequence[str] | None = None, *further: Any, **extra: Any) -> NoReturn:  # noqa: ANN401 click's signature
        """Runs a verb and ends the process with the verb's exit code."""
        words = sys.argv[1:] if args is None else list(args)
        try:
            code = super().main(words, *further, **{**extra, "standalone_mode": False})
        except SystemExit as end:
            code = end.code
        except click.ClickException as error:
            _show(error)
            code = error.exit_code
        except click.Abort:
            _say("interrupted")
            code = INTERRUPTED
        except (MachineError, StoreError) as error:  # the message says what to do
            _say(f"Error: {masked(one_line(str(error)))}")
            code = FAILED
        except Exception as error:  # noqa: BLE001 the last place that can report it
            is_stopped = was_interrupted()
            _say("interrupted" if is_stopped else unexpected(error))
            code = INTERRUPTED if is_stopped else FAILED
        sys.exit(_with_output(code or DONE, verb=words[0] if words else ""))


def report_in_threads() -> None:
    """Makes an unexpected error in a thread end as one in a verb does, without ending the verb."""

    def report(thread: threading.ExceptHookArgs) -> None:
        if thread.exc_value is not None and not isinstance(thread.exc_value, SystemExit):
            _say(unexpected(thread.exc_value))

    threading.excepthook = report


def unexpected(error: BaseException) -> str:
    """Writes the traceback of an error that no verb expects to a file; returns the message."""
    trace = "".join(traceback.format_exception(error))
    text = f"Error: {type(error).__name__}: {one_line(str(error))}"
    if os.environ.get(TRACEBACK_VARIABLE):
        return f"{visible(trace)}{text}"
    return (
        f"{text}\nThis error was not foreseen. If you report it, add its traceback, which "
        f"{_kept(trace)}, and the command. {TRACEBACK_VARIABLE}=1 shows the traceback here."
    )


def _kept(trace: str) -> str:
    """Writes a traceback to a file that only its user can read; returns where it is."""
    try:
        number, path = tempfile.mkstemp(dir=user_directory(), prefix="error-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 an open file
            file.write(trace)
    except OSError as error:
        return f"could not be written to a file ({error})"
    return f"is in {path}"


def _with_output(code: int, *, verb: str) -> int:
    """Returns the exit code of a verb; 1 if its work was to print and its output is not whole."""
    failure = output_failure()
    if failure is None:
        return code
    _say(f"Error: the output could not be written: {failure.strerror}")
    return code if verb in _WORKING else FAILED


def _show(error: click.ClickException) -> None:
    """Prints an error of click's, which may quote anything that was given to the command."""
    text = io.StringIO()
    error.show(file=text)
    _say(text.getvalue().rstrip("\n"))


def _say(text: str) -> None:
    click.echo(visible(text), err=True)


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mergesweep")
def cli() -> None:
    """Run model-merging studies: fine-tune experts, merge groups of them, compare the results.

    One file, STUDY.yaml, describes a whole study. Running it again continues where it stopped;
    artifacts that the store already has are never made twice.

    Exit codes: 0 done, 1 something failed, 2 bad input, 3 incomplete, 130 interrupted.
    """


for _verbs in (study_verbs, model_verbs, cluster_verbs, file_verbs):
    for _command in _verbs.COMMANDS:
        cli.add_command(_command)

"""`mergesweep check-method`: check a merging method that a user wrote."""

from collections.abc import Sequence

from rich.console import Console

from orchestrator.cli.exit_codes import BAD_INPUT, DONE, FAILED
from orchestrator.progress.say import say
from orchestrator.study.own_methods import ask_about
from workers.contract.ask import method_reports
from workers.own_methods.sources import (
    FORMS,
    OwnMethodError,
    Reference,
    packaged_methods,
    parse_reference,
)
from workers.specs.own_method import OwnMethodSpec


def print_check(method: str, *, console: Console) -> int:
    """Prints a line for each part of the contract; returns the exit code.

    Raises:
        OwnMethodError: The method cannot be found.
    """
    question = ask_about(_reference(method)).question
    with console.status(f"checking {method}; loading torch takes some seconds"):
        report = method_reports([question], anew=True)[question]
    for line in report.lines:
        say(console, f"{'ok' if line.is_kept else 'BROKEN':6} {line.name}: {line.found}")
        if not line.is_kept:
            say(console, f"       {report.remedies.get(line.name, '')}")
    if report.unchecked is not None:
        say(console, f"error: {report.unchecked}")
        return FAILED
    if report.broken:
        say(console, f"{method} cannot be used in a study")
        return BAD_INPUT
    say(console, f"{method} keeps the contract; in a study: `merge: [{{method: {method}}}]`")
    return DONE


def own_specs(methods: Sequence[str]) -> list[OwnMethodSpec]:
    """Returns the methods of installed packages and of files, after checking them.

    Raises:
        OwnMethodError: A method cannot be found, or breaks the contract.
    """
    packaged = [f"package:{name}" for name in packaged_methods()]
    named = dict.fromkeys([*packaged, *methods])
    if not named:
        return []
    asked = {each: ask_about(_reference(each)).question for each in named}
    reports = method_reports(asked.values())
    specs = []
    for method, question in asked.items():
        spec = reports[question].spec
        if spec is None:
            raise OwnMethodError(
                f"{method} cannot be used; `mergesweep check-method {method}` says why"
            )
        specs.append(spec)
    return specs


def _reference(method: str) -> Reference:
    reference = parse_reference(method)
    if reference is None:
        raise OwnMethodError(f"{method!r} is no method of your own; expected {FORMS}")
    return reference

"""`mergesweep methods` and `check-method`: list merging methods; check one that a user wrote."""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from merge.catalogue import CARDS, MethodCard
from merge.ranges import one_of, range_of
from orchestrator.cli.exit_codes import BAD_INPUT, DONE, FAILED
from orchestrator.progress.say import print_table, say
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


def print_methods(console: Console, *, listed: Iterable[tuple[str, MethodCard]]) -> None:
    """Prints a table of methods, given by their names and cards."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "needs", "parameters", "paper"):
        table.add_column(name, overflow="fold")
    for name, card in listed:
        table.add_row(name, _needs(card), _parameters(card), card.paper)
    print_table(console, table)


def _needs(card: MethodCard) -> str:
    """Returns the data, gradients and task labels that a method needs besides the weights."""
    wanted = [card.data_use.replace("_", " ") if card.data_use != "none" else "nothing"]
    if card.needs_gradients:
        wanted.append("gradients")
    if card.is_per_task:
        wanted.append("the task at test time")
    return ", ".join(wanted)


def _parameters(card: MethodCard) -> str:
    """Returns a line for each parameter, with its default and its range."""
    lines = [
        f"{each.name}={shown_default(each)} ({range_of(each).allowed})"
        for each in fields(card.params)
    ]
    return "\n".join(lines) or "none"


def shown_default(parameter: Field[Any]) -> str:
    """Returns a parameter's default as `--set` and the study file write it."""
    assert parameter.default is not MISSING, "every parameter has a default"
    if isinstance(parameter.default, tuple):
        return str(list(parameter.default))
    text = str(parameter.default)
    return text.lower() if isinstance(parameter.default, bool) else text


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


def listed_methods(named: Sequence[str]) -> list[tuple[str, MethodCard]]:
    """Returns the names and cards of methods, users' own after a check of the contract.

    Args:
        named: Methods as a study names them; none for the catalogue and the methods of installed
            packages.

    Raises:
        OwnMethodError: A method is unknown, cannot be found, or breaks the contract.
    """
    wanted = named or [*CARDS, *(f"package:{name}" for name in packaged_methods())]
    for each in wanted:
        if each not in CARDS and parse_reference(each) is None:
            raise OwnMethodError(
                f"{each!r} is no merging method; expected {FORMS}, or {one_of(CARDS, given=each)}"
            )
    specs = _checked_specs([each for each in wanted if each not in CARDS])
    return [
        (each, CARDS[each]) if each in CARDS else (specs[each].name, specs[each].card)
        for each in wanted
    ]


def _checked_specs(methods: Sequence[str]) -> dict[str, OwnMethodSpec]:
    """Returns the specifications of users' methods by the text that names each."""
    asked = {each: ask_about(_reference(each)).question for each in methods}
    reports = method_reports(asked.values()) if asked else {}
    specs = {}
    for method, question in asked.items():
        spec = reports[question].spec
        if spec is None:
            raise OwnMethodError(
                f"{method} cannot be used; `mergesweep check-method {method}` says why"
            )
        specs[method] = spec
    return specs


def _reference(method: str) -> Reference:
    reference = parse_reference(method)
    if reference is None:
        raise OwnMethodError(f"{method!r} is no method of your own; expected {FORMS}")
    return reference

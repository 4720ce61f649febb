"""`mergesweep methods`: list the merging methods with their needs, parameters and papers."""

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from merge.catalogue import CARDS, MethodCard
from merge.ranges import range_of
from orchestrator.progress.say import print_table
from workers.specs.own_method import OwnMethodSpec


def print_methods(console: Console, *, own: Sequence[OwnMethodSpec] = ()) -> None:
    """Prints a table of the methods: those of the catalogue, then those that users wrote."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("method", "needs", "parameters", "paper"):
        table.add_column(name, overflow="fold")
    for name, card in (*CARDS.items(), *((each.name, each.card) for each in own)):
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

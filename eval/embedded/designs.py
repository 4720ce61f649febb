"""Composes the emoji tasks: one emoji in the drawings of several designers.

The test split shows the drawings of a designer whom the training split does not show. OpenMoji,
which another task is made of, serves the flags alone, so no two tasks share a drawing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.embedded.index import read_index
from eval.embedded.sprites import Sheet, compose_sheet, cut_sheet
from eval.embedded.vendored import read_json

if TYPE_CHECKING:
    from PIL import Image

    from eval.images.split import Split
    from eval.tasks import Task

LISTING = "emoji/emoji.json"
"""Which emoji make up each class, and where they are on each designer's sheet."""

_SHEET_SUFFIX = ".webp"


def compose_designs(task: Task) -> dict[str, Split]:
    """Composes an emoji task: the last sheet's drawings for the test, all others to train."""
    sprites: list[Image.Image] = []
    labels: list[int] = []
    pools: list[dict[str, list[int]]] = [{"train": [], "test": []} for _ in task.classes]
    sheets = design_sheets(task.name)
    for sheet in sheets:
        split = "test" if sheet == sheets[-1] else "train"
        for label, drawings in enumerate(_drawings(task, sheet=sheet)):
            pools[label][split] += range(len(sprites), len(sprites) + len(drawings))
            sprites += drawings
            labels += [label] * len(drawings)
    sheet_of_all = Sheet(sprites=tuple(sprites), labels=tuple(labels))
    return compose_sheet(task, sheet=sheet_of_all, pools=pools)


def design_sheets(task_name: str) -> list[str]:
    """Lists the sheets of the designers that a task shows; the last is the test's."""
    sources = read_index()["tasks"][task_name]["sources"]
    return [source for source in sources if source.endswith(_SHEET_SUFFIX)]


def _drawings(task: Task, *, sheet: str) -> list[list[Image.Image]]:
    """Cuts one designer's drawings of each class."""
    listing = read_json(LISTING)
    place = {code: number for number, code in enumerate(listing["sheets"][sheet])}
    codes_of = listing["classes"][task.name]
    shown = [code for name in task.classes for code in codes_of[name]]
    cut = cut_sheet(
        sheet,
        size=listing["size"],
        columns=listing["columns"],
        numbers=[place[code] for code in shown],
    )
    drawing_of = dict(zip(shown, cut, strict=True))
    return [[drawing_of[code] for code in codes_of[name]] for name in task.classes]

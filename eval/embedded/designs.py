"""Composes the emoji tasks, in which several designers draw each emoji.

The test split shows drawings of a designer that the training split does not show. OpenMoji's
drawings, which `emoji_objects` uses, appear here only as flags, so no two tasks share a drawing.
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
"""Source that lists the emoji of each class, and their positions on each designer's sheet."""

_SHEET_SUFFIX = ".webp"


def compose_designs(task: Task) -> dict[str, Split]:
    """Composes an emoji task: the last sheet is the test split, all others are for training."""
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
    """Returns the designers' sheets of a task; the last one is for the test split."""
    sources = read_index()["tasks"][task_name]["sources"]
    return [source for source in sources if source.endswith(_SHEET_SUFFIX)]


def _drawings(task: Task, *, sheet: str) -> list[list[Image.Image]]:
    """Returns one designer's drawings of each class."""
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

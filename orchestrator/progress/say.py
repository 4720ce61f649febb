"""Prints messages and tables on a terminal or to a file."""

from rich.console import Console
from rich.segment import SegmentLines
from rich.table import Table

TABLE_WIDTH = 80
"""The least width of a table in columns. Narrower terminals break its lines, but no cell is cut."""


def say(console: Console, text: str) -> None:
    """Prints a text as it is: without markup, and without line breaks in commands."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def print_table(console: Console, table: Table) -> None:
    """Prints a table, as wide as the terminal and at least `TABLE_WIDTH`."""
    options = console.options.update_width(max(console.width, TABLE_WIDTH))
    lines = console.render_lines(table, options, pad=False)
    console.print(SegmentLines(lines, new_lines=True), crop=False, end="")

"""Prints sentences on a terminal or to a file."""

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Prints a sentence as it is: without markup, a command in it in one line."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)

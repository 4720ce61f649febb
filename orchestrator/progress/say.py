"""Prints messages on a terminal or to a file."""

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Prints a text as it is: without markup, and without line breaks in commands."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)

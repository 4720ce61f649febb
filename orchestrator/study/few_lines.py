"""Keeps messages with many problems to a few lines, without leaving one out."""

from collections.abc import Iterable
from itertools import takewhile

MAX_LINES = 9
"""The most lines below the first line of a message, so that it fits on a small terminal."""


def few_lines(lines: Iterable[str], *, at_most: int = MAX_LINES) -> list[str]:
    """Returns all lines in their order, at most `at_most` of them: neighbours share a line.

    The first to share a line are those whose fields, the words before the first colon, begin with
    the same parts; among equals, the shortest.
    """
    kept = list(lines)
    while len(kept) > max(at_most, 1):
        at = max(range(len(kept) - 1), key=lambda i: _nearness(kept[i], kept[i + 1]))
        kept[at : at + 2] = [f"{kept[at]} | {kept[at + 1]}"]
    return kept


def _nearness(line: str, following: str) -> tuple[int, int]:
    """Returns a sort key: the number of parts that both fields share, then the lines' shortness."""
    fields = [text.split(": ", 1)[0].split(".") for text in (line, following)]
    shared = takewhile(lambda parts: parts[0] == parts[1], zip(*fields, strict=False))
    return len(list(shared)), -len(line) - len(following)

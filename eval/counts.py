"""Puts counts and lists of names into words."""

from collections.abc import Iterable

NUM_NAMED = 5
"""Names of a list that a message has, unless it says otherwise."""


def counted(num: int, noun: str, *, plural: str = "") -> str:
    """Returns a count and its noun, as in `1 image` and `2,048 images`.

    Args:
        num: The count.
        noun: The noun in the singular.
        plural: The noun in the plural, if it is not the singular and an `s`.
    """
    return f"{num:,} {noun if num == 1 else plural or f'{noun}s'}"


def first_names(names: Iterable[object], *, most: int = NUM_NAMED) -> str:
    """Returns the first names of a list, as in `a, b` and `a, b, c and 1,024 more`.

    Args:
        names: The names, in the order in which they are shown.
        most: The number of names to show.
    """
    listed = [str(each) for each in names]
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more

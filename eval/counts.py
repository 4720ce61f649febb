"""Puts counts before their nouns, in the singular or the plural."""


def counted(num: int, noun: str, *, plural: str = "") -> str:
    """Returns a count and its noun, as in `1 image` and `2,048 images`.

    Args:
        num: The count.
        noun: The noun in the singular.
        plural: The noun in the plural, if it is not the singular and an `s`.
    """
    return f"{num:,} {noun if num == 1 else plural or f'{noun}s'}"

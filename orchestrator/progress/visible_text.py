"""Makes text from outside safe to print: names, values and messages may contain any character."""

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls of the terminal, except line feed and tab
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # reorder the text around them
    "\u2028\u2029\ufeff\ud800-\udfff]"  # line separators; bytes of names that are no text
)
_LINE_BREAKS = re.compile("[\n\t]")
_SPELT = str.maketrans({"±": "+-", "…": "...", "—": "-", "–": "-", "×": "x"})  # noqa: RUF001 on purpose


def visible(text: str) -> str:
    r"""Returns a text of any number of lines with unseen characters spelt, such as `\x1b`.

    These are the characters that would move the cursor, change colours, or reorder the text. Half
    a surrogate pair stands for a byte that is no text; no encoding could write it.
    """
    return _UNSEEN.sub(_spelt, text)


def one_line(text: str) -> str:
    r"""Returns a name or a value as one line: as `visible` does, and `\n` for a line feed."""
    return _LINE_BREAKS.sub(_spelt, visible(text))


def encodable(text: str, encoding: str) -> str:
    """Returns a text that the encoding of a terminal can write: `+-` where it has no `±`."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.translate(_SPELT)
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _spelt(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()

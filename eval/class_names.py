"""Finds class names that look alike, as when one class was written in two ways."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOOKALIKES = str.maketrans(
    # Cyrillic, then Greek letters, as numbers: they look like the Latin letters below.
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u03bf\u03c1\u03bd",
    "ABEKMHOPCTYXIJS" + "aeopcyxijs" + "ABEZHIKMNOPTYX" + "opv",
)
_HYPHENS = "\u2010-\u2015\u2212-"
_BETWEEN_DIGITS = re.compile(rf"(?<=\d)[\s_{_HYPHENS}]+(?=\d)")
_BLANKS = re.compile(r"[\s_]+")
_INNER_HYPHENS = re.compile(rf"(?<=\w)[{_HYPHENS}]+(?=\w)")


def alike_names(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the groups of names that a person would read as one name.

    Case, spaces, hyphens, underscores, invisible characters, Unicode's several spellings of one
    character and letters of other scripts that look like Latin ones make no difference. In names of
    one character, case and script count, because data sets of characters have such classes: `a` and
    `A`. Separators between digits count, and so do hyphens at either end: `1-2` is not `12`, and
    `-1` is not `1`.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_folded(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def alike_pair(names: Iterable[str], *, among: Iterable[str]) -> tuple[str, str] | None:
    """Returns a name and another one that a person would read as the same, if there are such."""
    wanted, found = sorted(names), set(among)
    for group in alike_names([*wanted, *sorted(found)]):
        pair = [each for each in wanted if each in group], [each for each in group if each in found]
        if all(pair):
            return pair[0][0], pair[1][0]
    return None


def _folded(name: str) -> str:
    visible = "".join(each for each in name if unicodedata.category(each) != "Cf")
    text = unicodedata.normalize("NFKC", visible).strip()
    if len(text) <= 1:
        return text
    joined = _BLANKS.sub("", _BETWEEN_DIGITS.sub("/", text))
    return _INNER_HYPHENS.sub("", joined).translate(_LOOKALIKES).casefold()

"""Recognises files that are something else than their names say."""

from __future__ import annotations

import codecs
import re

_LFS_POINTER = b"version https://git-lfs"
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)
_XML = re.compile(rb"\s*<(\?xml|svg)", re.IGNORECASE)
_HEAD_BYTES = 256
_Utf8 = codecs.getincrementaldecoder("utf-8")


def kind_of_content(content: bytes) -> str | None:
    """Returns a clause on content that is neither an image nor a table; None if it is not known.

    Args:
        content: The beginning of a file, or all of it.
    """
    head = content[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf")
    if not content:
        return "the file is empty"
    if not any(head):
        return "it begins with zeros, as files do whose download or copy did not end"
    if head.startswith(_LFS_POINTER):
        return "it is a pointer of Git LFS; `git lfs pull` fetches the file"
    if _WEB_PAGE.match(head):
        return "it is a web page (HTML)"
    if _XML.match(head):
        return "it is XML or SVG"
    return "it is text" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    try:
        text = _Utf8().decode(head)  # the head may end inside a character
    except UnicodeDecodeError:
        return False
    return all(each.isprintable() or each.isspace() for each in text)

"""Keeps the page small enough for a browser, whatever a study contains.

Figures and tables are marked as pieces. If the page is too large, its largest pieces give way to a
line that says so.
"""

import re

from orchestrator.report.markup import escaped, paragraph

MAX_PAGE_BYTES = 3_000_000

_PIECE = re.compile(r"<!--piece (.*?)-->(.*?)<!--/piece-->", re.DOTALL)


def piece(content: str, *, what: str) -> str:
    """Marks HTML as a part that the page can do without.

    Args:
        content: HTML without any piece inside.
        what: Its name for the line that may stand in its place.
    """
    return f"<!--piece {escaped(what)}-->{content}<!--/piece-->"


def fitted(page: str, *, most_bytes: int = MAX_PAGE_BYTES) -> str:
    """Returns a page without its marks, and without its largest pieces if it is too large.

    Text from a study cannot look like a mark, because every text is escaped.
    """
    sizes = {match.start(): len(match[2].encode()) for match in _PIECE.finditer(page)}
    num_over = len(page.encode()) - most_bytes
    left_out: set[int] = set()
    for start in sorted(sizes, key=lambda start: -sizes[start]):
        if num_over <= 0:
            break
        left_out.add(start)
        num_over -= sizes[start]

    def shown(match: re.Match[str]) -> str:
        if match.start() not in left_out:
            return match[2]
        size = f"{sizes[match.start()] / 1e6:.1f}"
        return (
            f'<p class="note">Left out, because the page would be too large: {match[1]}, '
            f"{size} MB. The tables beside the page have every row.</p>"
        )

    return _PIECE.sub(shown, page)


def fault_line(what: str, error: Exception) -> str:
    """Returns the line that stands for a part of the page that could not be made."""
    return paragraph(f"{what} could not be made: {one_line_of(error)}", css="note")


def one_line_of(error: Exception) -> str:
    """Returns an error's type and the beginning of its message in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"

"""HTML tables from plain text; every string is escaped here."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table, in plain text."""

    text: str
    css: str = ""
    """Class names of the page's own style sheet; never from outside."""
    title: str = ""
    """What a pointer over the cell shows."""
    is_head: bool = False
    num_rows: int = 1
    swatch: str = ""
    """A colour to show before the text."""

    @property
    def is_text(self) -> bool:
        """Whether the cell reads from the left, as words do; numbers stand at the right."""
        return self.is_head or self.css == "text"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    over: Sequence[tuple[str, int]] = (),
) -> str:
    """Return a table that scrolls sideways where the page is narrower than it.

    Args:
        head: The names of the columns.
        rows: The cells, row by row.
        over: Names that stand over several columns, each with how many, from the left.
    """
    top = "".join(
        f'<th class="over" colspan="{num}">{html.escape(name)}</th>' for name, num in over
    )
    top = f"<tr>{top}</tr>" if over else ""
    left = {at for row in rows for at, cell in _placed(row, len(head)) if cell.is_text}
    columns = "".join(
        f'<th scope="col"{" class=text" if at in left else ""}>{html.escape(name)}</th>'
        for at, name in enumerate(head)
    )
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        '<div class="wide" tabindex="0"><table>\n'
        f"<thead>{top}<tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _placed(row: Sequence[Cell], num_columns: int) -> Iterator[tuple[int, Cell]]:
    """Yield the cells with their columns; a row under a cell of several rows lacks the first."""
    yield from enumerate(row, start=num_columns - len(row))


def name_cell(text: str, *, css: str = "", swatch: str = "", num_rows: int = 1) -> Cell:
    """Return the cell that heads a row."""
    return Cell(text=text, css=css, swatch=swatch, num_rows=num_rows, is_head=True)


def definitions(entries: Mapping[str, str]) -> str:
    """Return names and their texts as a definition list."""
    pairs = (
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in entries.items()
    )
    return f"<dl>{''.join(pairs)}</dl>"


def paragraph(text: str, *, css: str = "") -> str:
    """Return a paragraph."""
    return f'<p class="{css}">{html.escape(text)}</p>' if css else f"<p>{html.escape(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    """Return a list; an empty one gives nothing."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _cell(cell: Cell) -> str:
    tag = "th" if cell.is_head else "td"
    attributes = {
        "scope": "row" if cell.is_head else "",
        "class": cell.css,
        "title": cell.title,
        "rowspan": str(cell.num_rows) if cell.num_rows > 1 else "",
    }
    spelt = "".join(f' {name}="{html.escape(v)}"' for name, v in attributes.items() if v)
    swatch = f'<i style="background:{html.escape(cell.swatch)}"></i>' if cell.swatch else ""
    return f"<{tag}{spelt}>{swatch}{html.escape(cell.text)}</{tag}>"

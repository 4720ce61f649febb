"""Builds pieces of HTML from plain text and SVG files; every string is escaped here."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.progress.visible_text import visible
from orchestrator.report.style import INK

MAX_BULLETS = 100


@dataclass(frozen=True, kw_only=True)
class HtmlCell:
    """One cell of an HTML table, in plain text."""

    text: str
    css: str = ""
    """Class names of the page's own style sheet; never text from a study."""
    title: str = ""
    """Text that appears when the pointer is over the cell."""
    is_head: bool = False
    num_rows: int = 1
    swatch: str = ""
    """Colour of the square in front of the text; empty for no square."""

    @property
    def is_text(self) -> bool:
        """Returns whether the cell is aligned to the left, as words are; numbers are not."""
        return self.is_head or self.css == "text"


def escaped(text: str) -> str:
    """Returns a text as HTML that shows it: nothing in it is markup or reorders its line."""
    return html.escape(visible(text))


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[HtmlCell]],
    *,
    over: Sequence[tuple[str, int]] = (),
) -> str:
    """Returns a table that scrolls sideways if the page is narrower than the table.

    Args:
        head: The names of the columns.
        rows: The cells, row by row.
        over: A second line of headings above the first: each heading with the number of columns
            that it spans, from the left.
    """
    top = "".join(f'<th class="over" colspan="{num}">{escaped(name)}</th>' for name, num in over)
    top = f"<tr>{top}</tr>" if over else ""
    left = {at for row in rows for at, cell in _placed(row, len(head)) if cell.is_text}
    columns = "".join(
        f'<th scope="col"{" class=text" if at in left else ""}>{escaped(name)}</th>'
        for at, name in enumerate(head)
    )
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        '<div class="wide" tabindex="0"><table>\n'
        f"<thead>{top}<tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _placed(row: Sequence[HtmlCell], num_columns: int) -> Iterator[tuple[int, HtmlCell]]:
    """Yields cells with their column numbers; rows under a cell of several rows lack column 0."""
    yield from enumerate(row, start=num_columns - len(row))


def name_cell(text: str, *, css: str = "", swatch: str = "", num_rows: int = 1) -> HtmlCell:
    """Returns the heading of a row."""
    return HtmlCell(text=text, css=css, swatch=swatch, num_rows=num_rows, is_head=True)


def definitions(entries: Mapping[str, str]) -> str:
    """Returns names and their texts as a definition list."""
    pairs = (f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in entries.items())
    return f"<dl>{''.join(pairs)}</dl>"


def paragraph(text: str, *, css: str = "") -> str:
    """Returns a paragraph."""
    return f'<p class="{css}">{escaped(text)}</p>' if css else f"<p>{escaped(text)}</p>"


def linked(content: str) -> str:
    """Returns HTML with links on the names of the tables that lie beside the page."""
    return re.sub(r"\b(results|experts)\.parquet\b", r'<a href="\g<0>">\g<0></a>', content)


def bullets(lines: Sequence[str]) -> str:
    """Returns a bulleted list that counts the lines after the first 100; nothing for no lines."""
    num_more = len(lines) - MAX_BULLETS
    lines = [*lines[:MAX_BULLETS], *([f"and {num_more:,} more"] if num_more > 0 else [])]
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def inline_svg(content: bytes, *, name: str, label: str) -> str:
    """Returns an SVG file as an `<svg>` element in the page's light or dark text colour.

    Ids are unique within one file only, so each gets the figure's name as a prefix. The fixed size
    is removed: the element fills the available width, and the view box keeps the proportions.
    """
    text = content.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"| height="[\d.]+pt" width="[\d.]+pt"',
                  "", text, count=1)  # fmt: skip
    text = text.replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{escaped(label)}"', 1)


def _cell(cell: HtmlCell) -> str:
    tag = "th" if cell.is_head else "td"
    attributes = {
        "scope": "row" if cell.is_head else "",
        "class": cell.css,
        "title": cell.title,
        "rowspan": str(cell.num_rows) if cell.num_rows > 1 else "",
    }
    spelt = "".join(f' {name}="{escaped(v)}"' for name, v in attributes.items() if v)
    swatch = f'<i style="background:{escaped(cell.swatch)}"></i>' if cell.swatch else ""
    return f"<{tag}{spelt}>{swatch}{escaped(cell.text)}</{tag}>"

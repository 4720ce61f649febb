"""Puts an SVG file into an HTML page, where it takes the page's colours."""

import html
import re

INK = "#24292f"
"""The colour of text, axes and references in a figure: dark on the white of a PNG."""


def inline_svg(content: bytes, *, name: str, label: str) -> str:
    """Return the file as an `<svg>` element that follows the page's light or dark text colour.

    Ids are unique in one file only, so each gets the figure's name in front. The fixed size goes:
    the element fills the width it is given, and the view box keeps the proportions.
    """
    text = content.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", text)
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"| height="[\d.]+pt" width="[\d.]+pt"',
                  "", text, count=1)  # fmt: skip
    text = text.replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)

"""Colours, markers and hatches of the methods, the same in all figures and tables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

INK = "#24292f"
"""The colour of text, axes and references in a figure: dark on a white page."""

# The colours of Okabe and Ito, which can be told apart with the common kinds of colour blindness.
# Their black (invisible on a dark page) and yellow (invisible on a light page) are left out.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "//", "..", "xx")


@dataclass(frozen=True, kw_only=True)
class MethodStyle:
    """The look of one method; methods with the same colour differ in marker and hatch."""

    color: str
    marker: str
    hatch: str


Styles = Mapping[str, MethodStyle]
"""The style of every method of a study, by the method's label."""


def method_styles(methods: Iterable[str]) -> Styles:
    """Assigns styles to methods in the order of their first appearance."""
    return {
        method: MethodStyle(
            color=_COLORS[index % len(_COLORS)],
            marker=_MARKERS[index % len(_MARKERS)],
            hatch=_HATCHES[index // len(_COLORS) % len(_HATCHES)],
        )
        for index, method in enumerate(dict.fromkeys(methods))
    }

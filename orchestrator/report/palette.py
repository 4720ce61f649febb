"""One look for every method, the same in all figures and tables."""

from collections.abc import Iterable
from dataclasses import dataclass

# Okabe and Ito's colours, which stay apart under the common kinds of colour blindness, without
# their black (invisible on a dark page) and yellow (invisible on a light one).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "//", "..", "xx")


@dataclass(frozen=True, kw_only=True)
class MethodStyle:
    """How a method is drawn; marker and hatch still differ where the colours repeat."""

    color: str
    marker: str
    hatch: str


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """Return a style for every method, by the order of first appearance."""
    return {
        method: MethodStyle(
            color=_COLORS[index % len(_COLORS)],
            marker=_MARKERS[index % len(_MARKERS)],
            hatch=_HATCHES[index // len(_COLORS) % len(_HATCHES)],
        )
        for index, method in enumerate(dict.fromkeys(methods))
    }

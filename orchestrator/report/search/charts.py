"""Draws the figures of a search; importing this module loads matplotlib."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from orchestrator.report.canvas import WIDTH_IN, new_chart, svg_of
from orchestrator.report.style import INK
from orchestrator.search.summary import SearchSummary

Row = Mapping[str, Any]
_HEIGHT_IN = 3.2
_COLORS = {
    "won": "#d55e00",
    "finished": "#0072b2",
    "goes on": "#0072b2",
    "waits": "#009e73",
    "stopped": "#8c959f",
    "diverged": "#cc79a7",
}
_STOPPED_ALPHA = 0.6


def incumbent_chart(summary: SearchSummary) -> bytes:
    """Returns the chart of all scores, and of the best so far, over the trained steps."""
    rows = [row for row in summary.candidates.to_pylist() if row["objective"] is not None]
    better = max if summary.metric == "accuracy" else min
    best: list[float] = []
    for row in rows:
        best.append(better([row["objective"], *best[-1:]]))
    with new_chart(WIDTH_IN, _HEIGHT_IN) as (figure, axes):
        steps = [row["trained_steps"] for row in rows]
        for outcome, color in _COLORS.items():
            shown = [row for row in rows if row["outcome"] == outcome]
            axes.scatter(
                [row["trained_steps"] for row in shown],
                [row["objective"] for row in shown],
                s=14,
                color=color,
                label=outcome,
            ) if shown else None
        axes.step(steps, best, where="post", color=INK, lw=1.2, label="best so far")
        axes.set_xlabel("optimizer steps of all trials")
        axes.set_ylabel(f"validation {summary.metric}")
        axes.grid(visible=True)
        figure.legend(loc="outside lower center", ncols=3)
        return svg_of(figure)


def parallel_chart(summary: SearchSummary) -> bytes:
    """Returns parallel coordinates: a line per candidate through its values to its last score."""
    last = {row["candidate"]: row for row in summary.candidates.to_pylist()}
    rows = [row for row in last.values() if row["objective"] is not None]
    names = [*summary.dimensions, "objective"]
    width_in = max(WIDTH_IN, 1.1 * len(names))
    with new_chart(width_in, _HEIGHT_IN) as (figure, axes):
        places = {
            name: _places([row[name] for row in rows], is_log=summary.dimensions.get(name, False))
            for name in names
        }
        for index, row in enumerate(rows):
            heights = [places[name][index] for name in names]
            is_stopped = row["outcome"] == "stopped"
            axes.plot(
                range(len(names)),
                heights,
                color=_COLORS[row["outcome"]],
                lw=2.4 if row["outcome"] == "won" else 0.9,
                alpha=_STOPPED_ALPHA if is_stopped else 1.0,
                zorder=3 if row["outcome"] == "won" else 2,
            )
        _label_ends(axes, names=names, rows=rows)
        return svg_of(figure)


def _label_ends(axes: Axes, *, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Writes the name of each coordinate, with its least and greatest value."""
    axes.set_xticks(range(len(names)), [name.replace("@", "\n") for name in names])
    axes.tick_params(axis="x", labelsize=8, length=0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_ylim(-0.1, 1.1)
    for place, name in enumerate(names):
        axes.axvline(place, color=INK, lw=0.8)
        ends = _ends([row[name] for row in rows])
        for end, height in zip(ends, (-0.08, 1.04), strict=True):
            axes.text(place, height, end, size=7, ha="center")


def _ends(values: Sequence[Any]) -> tuple[str, str]:
    is_numeric = all(isinstance(each, int | float) for each in values)
    ordered = sorted(values) if is_numeric else sorted(map(str, values))
    low, high = ordered[0], ordered[-1]
    return (f"{low:.4g}", f"{high:.4g}") if is_numeric else (str(low), str(high))


def _places(values: Sequence[Any], *, is_log: bool) -> list[float]:
    """Returns the height of each value on its coordinate, from 0 to 1."""
    if all(isinstance(each, int | float) for each in values):
        numbers = [math.log(each) if is_log else float(each) for each in values]
    else:
        ranks = {name: rank for rank, name in enumerate(sorted(set(map(str, values))))}
        numbers = [float(ranks[str(each)]) for each in values]
    low, high = min(numbers), max(numbers)
    return [(each - low) / (high - low) if high > low else 0.5 for each in numbers]

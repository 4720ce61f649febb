"""Legends below charts."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D

from orchestrator.report.canvas import WIDTH_IN, legend, new_chart, svg_of

SHORT = ["average", "ties", "dare", "base, same heads", "experts"]
LONG = ["average", "task_arithmetic (scaling=0.375)", "task_arithmetic (scaling=0.5)", "ties"]
LONGEST = [f"task_arithmetic (scaling tuned over the setting), {each}" for each in "abc"]


@pytest.mark.parametrize("labels", [SHORT, [*LONG, *SHORT[3:]], LONGEST])
def test_no_label_of_a_legend_is_cut_off(labels: list[str]) -> None:
    """As drawn, each text lies inside the figure, and the plot keeps its height."""
    heights = []
    for shown in (labels[:1], labels):
        with new_chart(WIDTH_IN, 3.5 + 0.19 * -(-len(shown) // 3)) as (figure, axes):
            axes.plot([0, 1], [0, 1])
            legend(figure, [Line2D([], [], label=label) for label in shown])
            svg_of(figure)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            (drawn,) = figure.legends
            boxes = [each.get_window_extent() for each in drawn.get_texts()]
            heights.append(axes.get_window_extent().height)
            assert min(box.x0 for box in boxes) >= 0
            assert max(box.x1 for box in boxes) <= figure.bbox.width
            assert min(box.y0 for box in boxes) >= 0
    assert heights[1] == pytest.approx(heights[0], rel=0.03)

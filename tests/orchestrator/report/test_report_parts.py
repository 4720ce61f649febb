import math
import subprocess
import sys

import pytest

from orchestrator.report.canvas import x_scale
from orchestrator.report.markup import inline_svg
from orchestrator.report.style import INK, method_styles
from orchestrator.report.wording import percent


def test_values_a_decade_apart_get_a_log_axis() -> None:
    """0.0001 to 0.003 is logarithmic; 2 to 6, and values from zero on, are not."""
    assert x_scale("lr", ["0.0001", "0.003"]).log
    assert not x_scale("num_tasks", ["2", "4", "6"]).log
    assert not x_scale("dropout", ["0", "0.1", "10"]).log


def test_shift_is_the_same_distance_on_both_kinds_of_axis() -> None:
    """A shift is a sum on a linear axis and a factor on a logarithmic axis."""
    linear = x_scale("num_tasks", ["2", "6"]).shifted(0.25)
    log = x_scale("lr", ["0.01", "100"]).shifted(0.25)
    assert list(linear.positions.values()) == [3.0, 7.0]
    assert list(log.positions.values()) == pytest.approx([0.1, 1000.0])


def test_many_methods_stay_apart() -> None:
    """Methods of the same colour differ in marker and hatch."""
    styles = method_styles(f"m{index}" for index in range(20))
    assert len({(s.color, s.marker) for s in styles.values()}) == 20
    assert len({(s.color, s.hatch) for s in styles.values()}) == 20


def test_charts_follow_the_colours_of_the_page() -> None:
    """Ink becomes the page's text colour, and ids get the chart's name as a prefix."""
    svg = b'<?xml?><svg width="3pt" height="4pt"><g id="a" style="fill: %s"/><use href="#a"/></svg>'
    text = inline_svg(svg % INK.encode(), name="x", label='a "b"')
    assert text == (
        '<svg role="img" aria-label="a &quot;b&quot;"><g id="x-a" style="fill: currentColor"/>'
        '<use href="#x-a"/></svg>'
    )


def test_percent_has_no_negative_zero() -> None:
    """A difference that rounds to zero has no sign."""
    assert percent(-0.0001) == "0.0"
    assert percent(math.nan) == "—"


def test_importing_the_report_does_not_load_matplotlib_or_parts_of_scipy() -> None:
    """The command line may import the report; only drawing and theory tables pay for them."""
    heavy = ("matplotlib", "scipy.stats", "scipy.optimize", "scipy.linalg")
    code = f"import sys, orchestrator.report.page; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"

"""Laws in the size of the model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.plan.plan import Plan
from orchestrator.theory.evidence.size_axis import SIZE_AXIS, model_sizes, with_size_axis
from orchestrator.theory.laws import AxisLaws, fit_axis
from orchestrator.theory.panel import Panel

SIZES = {"small": 1.0, "middle": 3.5, "large": 10.0, "huge": 20.0, "giant": 50.0}


def panel_of(make_panel: Callable[..., Panel], names: list[str]) -> Panel:
    """Returns a panel whose losses have a floor of 0.5 and a tail of 2 / (size + 1)."""
    loss = np.array([[[0.5 + 2 / (SIZES.get(name, 7.0) + 1)]] for name in names])
    panel = make_panel(loss, values=names)
    return replace(panel, axes={"model": panel.axes["lr"]})


def test_the_law_is_fitted_to_the_number_of_weights(make_panel: Callable[..., Panel]) -> None:
    """Models out of order stand at their sizes, and floor and tail predict those left out."""
    panel = panel_of(make_panel, ["large", "small", "giant", "middle", "huge"])
    found = with_size_axis(panel, SIZES)
    assert list(found.axes) == [SIZE_AXIS]
    laws = fit_axis(found, SIZE_AXIS, mean="macro")
    assert isinstance(laws, AxisLaws)
    assert laws.values == pytest.approx([1.0, 3.5, 10.0, 20.0, 50.0])
    assert laws.losses == pytest.approx(0.5 + 2 / (laws.values + 1))
    held_out = {law.form.name: law.error_held_out for law in laws.laws}
    assert held_out["floor_and_tail"] < 0.01 < held_out["constant"]


def test_names_stay_where_sizes_tell_nothing(make_panel: Callable[..., Panel]) -> None:
    """A model of unknown size, or two of one size, have no place on the axis."""
    unknown = panel_of(make_panel, ["small", "other"])
    assert with_size_axis(unknown, SIZES) is unknown
    alike = panel_of(make_panel, ["small", "twin"])
    assert with_size_axis(alike, {**SIZES, "twin": 1.0}) is alike
    of_rates = make_panel(np.ones((2, 1, 1)))
    assert with_size_axis(of_rates, SIZES) is of_rates


def test_sizes_are_those_of_the_varied_models(make_plan: Callable[..., Plan]) -> None:
    """A study of one model varies none, and asks nothing about its size."""
    models = ["test_efficientnet", "test_resnet"]
    backbone = {"weights": "none", "image_size": 32, "axes": {"model": models}}
    assert model_sizes(make_plan(backbone=backbone)) == pytest.approx(
        {"test_efficientnet": 0.099196, "test_resnet": 0.372688}
    )
    assert model_sizes(make_plan()) == {}

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.theory.forms import FORMS
from orchestrator.theory.laws import AxisLaws, fit_axis
from orchestrator.theory.panel import Panel

FINISHED = Path(__file__).parents[3] / "deploy" / "studies" / "embedded-laws.results.csv"
"""The means of a finished study over 15 groups."""
MakePanel = Callable[..., Panel]
METHODS = ("average", "task_arithmetic", "ties")


def finished(axis: str, method: str, make_panel: MakePanel) -> AxisLaws:
    lines = [line for line in FINISHED.read_text().splitlines() if not line.startswith("#")]
    rows = [
        row
        for row in csv.DictReader(lines)
        if (row["axis"], row["method"], row["mean"]) == (axis, method, "macro")
    ]
    losses = np.array([[[float(row["loss_mean"])]] for row in rows])
    panel = make_panel(losses, values=[row["value"] for row in rows])
    laws = fit_axis(panel, "lr", mean="macro")
    assert isinstance(laws, AxisLaws)
    return laws


def preferred(laws: AxisLaws) -> str:
    (law,) = [each for each in laws.laws if each.is_preferred]
    return law.form.name


def errors(laws: AxisLaws, form: str) -> tuple[float, float]:
    (law,) = [each for each in laws.laws if each.form.name == form]
    return law.error_in_sample, law.error_held_out


@pytest.mark.parametrize(
    ("axis", "exponents"),
    [
        ("steps", (-0.128, -0.141, -0.098)),
        ("batch_size", (-0.090, -0.101, -0.072)),
    ],
)
def test_exponents_of_a_finished_study(
    axis: str, exponents: tuple[float, ...], make_panel: MakePanel
) -> None:
    """Steps and batch size have the exponents that were found by another program."""
    found = [finished(axis, method, make_panel).exponent.value for method in METHODS]
    assert found == pytest.approx(exponents, abs=0.002)


def test_best_learning_rates_of_a_finished_study(make_panel: MakePanel) -> None:
    """The parabola in ln lr is preferred, and its vertex is within 3 % of the known one."""
    known = {"average": 1.316e-4, "task_arithmetic": 1.241e-4, "ties": 1.381e-4}
    for method, vertex in known.items():
        laws = finished("lr", method, make_panel)
        assert preferred(laws) == "parabola"
        assert laws.optimum is not None
        assert laws.optimum.value == pytest.approx(vertex, rel=0.03)


def test_errors_of_a_finished_study(make_panel: MakePanel) -> None:
    """In-sample and held-out errors equal those that were found by another program."""
    average = finished("steps", "average", make_panel)
    assert errors(average, "power") == pytest.approx((0.003, 0.007), abs=6e-4)
    ties = finished("steps", "ties", make_panel)
    assert errors(ties, "floor_and_tail") == pytest.approx((0.002, 0.010), abs=1e-3)
    learning_rate = finished("lr", "task_arithmetic", make_panel)
    assert errors(learning_rate, "parabola") == pytest.approx((0.006, 0.039), abs=6e-4)
    ratio = finished("data_ratio", "ties", make_panel)
    assert errors(ratio, "inverse") == pytest.approx((0.003, 0.020), abs=6e-4)
    number = finished("num_tasks", "average", make_panel)
    assert errors(number, "saturating_power") == pytest.approx((0.014, 0.036), abs=3e-3)


@pytest.mark.parametrize(
    ("axis", "method", "form"),
    [
        ("steps", "average", "power"),
        ("steps", "ties", "floor_and_tail"),
        ("batch_size", "task_arithmetic", "power"),
        ("data_ratio", "average", "inverse"),
        ("num_tasks", "average", "saturating_power"),
        ("num_tasks", "ties", "constant"),
    ],
)
def test_preferred_forms_of_a_finished_study(
    axis: str, method: str, form: str, make_panel: MakePanel
) -> None:
    """The least held-out error wins, and a constant that predicts as well wins a tie."""
    assert preferred(finished(axis, method, make_panel)) == form


def test_no_optimum_is_seen_where_the_loss_still_falls(make_panel: MakePanel) -> None:
    """The steps of the finished study end before the loss turns."""
    laws = finished("steps", "average", make_panel)
    assert laws.optimum is None
    assert laws.no_optimum == "no optimum seen up to 160"


def test_no_optimum_is_told_from_three_values(make_panel: MakePanel) -> None:
    """A parabola passes through any three values, also if they bend."""
    laws = finished("data_ratio", "average", make_panel)
    assert laws.optimum is None
    assert "any three values" in laws.no_optimum


def test_no_optimum_where_the_groups_do_not_agree(make_panel: MakePanel) -> None:
    """If resampled groups put the least loss at either end, there is no optimum to report."""
    x = np.log([1.0, 2.0, 4.0, 8.0, 16.0])
    rng = np.random.default_rng(1)
    slopes = rng.normal(scale=1.0, size=4)
    losses = 3 + 0.01 * (x - x.mean())[:, None] ** 2 + (x - x.mean())[:, None] * slopes
    losses += (x - x.mean())[:, None] * -slopes.mean()
    laws = fit_axis(
        make_panel(losses[:, :, None], values=("1", "2", "4", "8", "16")), "lr", mean="macro"
    )
    assert isinstance(laws, AxisLaws)
    assert laws.optimum is None
    assert "spans all values" in laws.no_optimum


@pytest.mark.parametrize(
    ("form", "params"),
    [
        ("line", (1.0, 0.5)),
        ("power", (0.3, -0.7)),
        ("inverse", (2.0, 3.0)),
        ("parabola", (2.0, -1.0, 0.3)),
        ("floor_and_tail", (1.5, 4.0, 2.5)),
        ("saturating_power", (2.0, -1.2, 1.7)),
    ],
)
def test_each_form_finds_its_own_parameters(form: str, params: tuple[float, ...]) -> None:
    """Values that follow a form exactly give back its parameters."""
    x = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])
    y = FORMS[form].predict(np.array(params), x)
    assert FORMS[form].fit(x, y) == pytest.approx(np.array(params), rel=1e-3)


def test_intervals_of_an_exponent_over_groups_tasks_and_settings(make_panel: MakePanel) -> None:
    """All three are there, hold the exponent, and the widest is the one to quote."""
    rng = np.random.default_rng(0)
    x = np.array([1.0, 2.0, 4.0, 8.0])
    losses = np.full((4, 6, 4), np.nan)
    for group, members in enumerate([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]):
        for task in members:
            losses[:, group, task] = x ** -(0.1 + 0.05 * task) * np.exp(rng.normal(0, 0.01, 4))
    laws = fit_axis(make_panel(losses, values=("1", "2", "4", "8")), "lr", mean="macro")
    assert isinstance(laws, AxisLaws)
    assert set(laws.exponent.intervals) == {"groups", "tasks", "settings"}
    for interval in laws.exponent.intervals.values():
        assert interval.low <= laws.exponent.value <= interval.high
    assert laws.exponent.interval.width == max(
        each.width for each in laws.exponent.intervals.values()
    )
    assert laws.exponent.interval.over == "tasks"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (("adam", "sgd", "adamw"), "names, not numbers"),
        (("0.0", "0.1", "0.2"), "positive values, and 0 is among them"),
        (("1", "2"), "2 values have a finite loss"),
    ],
)
def test_reasons_for_no_law(values: tuple[str, ...], reason: str, make_panel: MakePanel) -> None:
    """An axis without a law says why."""
    found = fit_axis(make_panel(np.ones((len(values), 2, 2)), values=values), "lr", mean="macro")
    assert isinstance(found, str)
    assert reason in found


def test_seeds_are_names(make_panel: MakePanel) -> None:
    """A loss follows no law along seeds, whatever their numbers are."""
    panel = make_panel(np.ones((4, 2, 2)), values=("1", "2", "3", "4"))
    panel = replace(panel, axes={"seed": panel.axes["lr"]})
    assert fit_axis(panel, "seed", mean="macro") == "its values are names, not numbers"


def test_no_trend_is_no_loss_that_still_falls(make_panel: MakePanel) -> None:
    """Of equal losses none is the least: the reason is not that they fall to the last value."""
    values = ("0.1", "0.2", "0.4", "0.8", "1.6")
    for losses in (np.full(5, 2.1), np.array([2.1, 2.0, 2.1, 2.0, 2.05])):
        laws = fit_axis(
            make_panel(losses[:, None, None].repeat(2, axis=1), values=values), "lr", mean="macro"
        )
        assert isinstance(laws, AxisLaws)
        assert preferred(laws) == "constant"
        assert laws.no_optimum.startswith("a parabola predicts the values left out no better")

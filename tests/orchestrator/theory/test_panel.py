from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.results.schema import RESULTS_SCHEMA
from orchestrator.theory.panel import Panel, panels

MakeResults = Callable[..., pa.Table]


def level(index: int, axis: str, method: str, task: str) -> float:
    return 1.0 + index + len(axis) / 100 + len(method) / 1000 + "abcd".index(task) / 10


def test_a_point_on_two_axes_is_one_setting(make_results: MakeResults) -> None:
    """Values of two axes with the same merges share a setting, which keeps its first name."""
    table = make_results({"lr": ("0.1", "1.0"), "steps": ("10", "20")}, loss=level)
    rows = table.to_pylist()
    for row in rows:
        if row["setting"] == "steps=20":
            row["merge_id"] = row["merge_id"].replace("steps 20", "lr 0.1")
    (panel,) = panels(pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA))
    assert panel.settings == ("lr=0.1", "lr=1.0", "steps=10")
    assert panel.axes == {"lr": {"0.1": 0, "1.0": 1}, "steps": {"10": 2, "20": 0}}


def test_means_of_groups_are_those_of_the_tasks(make_results: MakeResults) -> None:
    """The macro mean weighs tasks equally, the union mean by their test images."""
    table = make_results({"lr": ("0.1",)}, loss=level)
    rows = [row | {"num_examples": 300 if row["task"] == "a" else 100} for row in table.to_pylist()]
    (panel,) = panels(pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA))
    a, b = (level(0, "lr", "average", task) for task in "ab")
    assert panel.groups[0] == "2x00"
    assert panel.group_means("loss", mean="macro")[0, 0] == pytest.approx((a + b) / 2)
    assert panel.group_means("loss", mean="union")[0, 0] == pytest.approx((3 * a + b) / 4)


def test_rows_of_means_and_of_held_out_tasks_are_left_out(make_results: MakeResults) -> None:
    """Neither is a task of the group."""
    rows = make_results({"lr": ("0.1",)}, loss=level).to_pylist()
    further = [
        rows[0] | {"task": "macro"},
        rows[0] | {"task": "union"},
        rows[0] | {"task": "e", "held_out": True},
    ]
    (panel,) = panels(pa.Table.from_pylist(rows + further, schema=RESULTS_SCHEMA))
    assert panel.tasks == ("a", "b", "c", "d")


def test_panels_of_all_methods_have_the_same_frame(make_results: MakeResults) -> None:
    """A method that lacks merges has NaN for them, in the same places."""
    table = make_results({"lr": ("0.1", "1.0")}, loss=level, methods=("average", "ties"))
    rows = [
        row
        for row in table.to_pylist()
        if (row["method"], row["value"], row["group"]) != ("ties", "1.0", "2x02")
    ]
    average, ties = panels(pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA))
    assert (average.settings, average.groups) == (ties.settings, ties.groups)
    assert np.isfinite(average.group_means("loss")).all()
    missing = np.argwhere(~np.isfinite(ties.group_means("loss")))
    assert missing.tolist() == [[1, 2]]


def test_balanced_leaves_out_groups_and_settings_with_holes(
    make_panel: Callable[..., Panel],
) -> None:
    """A setting that lacks most groups goes first, then every group that lacks a setting."""
    losses = np.ones((4, 6, 2))
    losses[3, 1:] = np.nan
    losses[2, 5] = np.inf
    panel = make_panel(losses).balanced()
    assert panel.settings == ("lr=1", "lr=2", "lr=3")
    assert panel.groups == tuple(f"group {index}" for index in range(5))
    assert list(panel.axes["lr"]) == ["1", "2", "3"]


def test_balanced_of_disjoint_groups_is_empty(make_panel: Callable[..., Panel]) -> None:
    """Groups that are at one setting each, as those of several sizes, compare nothing."""
    losses = np.full((2, 4, 2), np.nan)
    losses[0, :2] = losses[1, 2:] = 1.0
    panel = make_panel(losses).balanced()
    assert panel.settings == ()
    assert panel.groups == ()

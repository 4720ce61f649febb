from dataclasses import replace

import pytest

from orchestrator.advice.candidates import (
    MAX_CANDIDATES,
    crossed,
    grid_values,
    is_beyond,
    moved_axes,
)
from workers.specs.hyperparameters import Hyperparameters

POINT = Hyperparameters(steps=40, batch_size=16, lr=0.001, data_ratio=1.0, optimizer="adam", seed=0)


def test_the_grid_has_values_between_and_one_beyond_each_end() -> None:
    """Values have two digits; fractions of the images end at 1; an unvaried axis stays."""
    tried = [
        *(replace(POINT, lr=lr) for lr in (0.0001, 0.0004)),
        *(replace(POINT, data_ratio=ratio) for ratio in (0.25, 1.0)),
        *(replace(POINT, steps=steps) for steps in (10, 40, 160)),
    ]
    grid = grid_values(tried)
    assert grid["lr"] == pytest.approx([2.5e-5, 1e-4, 2e-4, 4e-4, 6.3e-4, 1e-3, 2.5e-3])
    assert grid["data_ratio"] == pytest.approx([0.062, 0.25, 0.5, 1.0])
    assert grid["steps"] == [2, 10, 20, 40, 80, 160, 640]
    assert all(isinstance(steps, int) for steps in grid["steps"])
    assert grid["batch_size"] == [16]


def test_tried_points_are_no_candidates_and_large_grids_stay_near_the_best() -> None:
    """A grid of too many combinations loses the values that are farthest from the best."""
    values = {"lr": [0.001 * 2.0**power for power in range(-30, 40)], "steps": list(range(1, 101))}
    points = crossed(values, tried=[POINT], best=POINT)
    assert POINT not in points
    assert len(points) <= MAX_CANDIDATES
    assert replace(POINT, lr=0.002) in points
    assert max(point.lr for point in points) < 0.001 * 2.0**39


def test_a_schedule_needs_steps_after_its_warmup() -> None:
    """Shorter candidates would be refused by the study file."""
    best = replace(POINT, schedule="cosine", warmup_steps=20)
    points = crossed({"steps": [10, 20, 30]}, tried=[best], best=best)
    assert [point.steps for point in points] == [30]


def test_axes_that_no_tried_setting_shares_are_counted() -> None:
    """A value between two that were tried is no tried value, and not beyond them."""
    tried = [POINT, replace(POINT, lr=0.01), replace(POINT, steps=80)]
    between = replace(POINT, lr=0.005)
    assert moved_axes(between, tried=tried) == 1
    assert not is_beyond(between, tried=tried)
    assert moved_axes(replace(POINT, lr=0.01, steps=80), tried=tried) == 1
    assert moved_axes(replace(between, steps=160), tried=tried) == 2
    assert is_beyond(replace(between, steps=160), tried=tried)

from dataclasses import replace

import pytest

from orchestrator.advice.candidates import (
    MAX_CANDIDATES,
    Values,
    crossed,
    ends_before,
    grid_values,
    is_beyond,
    is_tested,
    num_different,
)
from orchestrator.advice.tried import values_of
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
    tried = [replace(POINT, steps=steps, lr=lr) for steps in (40, 80) for lr in (0.001, 0.01)]
    values: Values = {"lr": [0.001 * 1.01**power for power in range(-300, 400)], "steps": [40, 80]}
    points = crossed(values, tried=tried, best=POINT)
    assert POINT not in points
    assert MAX_CANDIDATES // 2 < len(points) <= MAX_CANDIDATES
    assert replace(POINT, lr=0.001 * 1.01) in points
    assert max(point.lr for point in points) < 0.001 * 1.01**399


def test_pairs_of_new_values_are_no_candidates() -> None:
    """Along one axis at a time, nothing says how axes combine; a grid tests its rows."""
    axes = [POINT, replace(POINT, lr=0.01), replace(POINT, steps=80)]
    values: Values = {"lr": [0.005, 0.01], "steps": [80, 160]}
    assert crossed(values, tried=axes, best=POINT) == ()
    grid = [*axes, replace(POINT, lr=0.01, steps=80)]
    points = crossed(values, tried=grid, best=POINT)
    assert points == (replace(POINT, lr=0.005, steps=80), replace(POINT, lr=0.01, steps=160))
    tested = [values_of(point) for point in axes]
    assert is_tested(values_of(replace(POINT, lr=0.02)), tried=tested)
    assert not is_tested(values_of(replace(POINT, batch_size=8)), tried=tested)


def test_a_schedule_needs_steps_after_its_warmup() -> None:
    """Shorter candidates would be refused by the study file."""
    best = replace(POINT, schedule="cosine", warmup_steps=20)
    tried = [best, replace(best, steps=80)]
    points = crossed({"steps": [10, 20, 30]}, tried=tried, best=best)
    assert [point.steps for point in points] == [30]


def test_a_value_between_two_that_were_tried_is_not_beyond_them() -> None:
    """It is no tried value either."""
    tried = [POINT, replace(POINT, lr=0.01), replace(POINT, steps=80)]
    between = replace(POINT, lr=0.005)
    assert not is_beyond(between, tried=tried)
    assert is_beyond(replace(between, steps=160), tried=tried)
    assert num_different(replace(between, steps=160), POINT) == 2


def test_the_ends_before_a_value_are_those_with_a_neighbour_along_the_axis() -> None:
    """Another point with the same batch size says nothing about larger batches."""
    middle = replace(POINT, steps=80)
    tried = [
        middle,
        replace(middle, batch_size=32),
        replace(middle, batch_size=32, lr=0.01, steps=20),
    ]
    larger = replace(middle, batch_size=64)
    assert list(ends_before(larger, tried=tried)) == [1]
    assert list(ends_before(replace(middle, batch_size=24), tried=tried)) == []

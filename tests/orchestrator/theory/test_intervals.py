import numpy as np
import pytest

from orchestrator.theory.intervals import MAX_PARTS, Indices, parts_of, three_intervals
from orchestrator.theory.panel import Array


@pytest.mark.parametrize("num_settings", [1, 5, MAX_PARTS, MAX_PARTS + 1, 3 * MAX_PARTS])
def test_every_setting_is_left_out_once(num_settings: int) -> None:
    """Few settings each by itself, and many in parts of settings that are far from each other."""
    parts = parts_of(num_settings)
    assert len(parts) == min(num_settings, MAX_PARTS)
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_settings))
    assert all((np.diff(part) >= MAX_PARTS).all() for part in parts)


def test_statistic_is_computed_as_often_for_many_settings_as_for_some() -> None:
    """Otherwise the time would grow with the square of their number."""
    calls: list[int] = []

    def statistic(settings: Indices, groups: Indices) -> Array:
        calls.append(len(settings))
        return np.full(len(groups), settings.mean())

    members = np.array([[True, False], [False, True]])
    found = three_intervals(statistic, members=members, num_settings=1000)
    assert len(calls) == MAX_PARTS + 3  # the draws of groups, and either task left out
    assert found["settings"].low < 499.5 < found["settings"].high

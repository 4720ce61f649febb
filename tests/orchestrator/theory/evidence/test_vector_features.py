"""Predictors from the task vectors of a merge's experts."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from orchestrator.bounds.study_measurements import MeasuredOperator
from orchestrator.plan.plan import Plan
from orchestrator.theory.evidence.vector_features import task_vectors_of, vector_predictors
from orchestrator.theory.panel import Panel
from workers.artifacts.measured import OperatorMetrics

# Lengths 3 and 4, cosine 1/2: the mean is (t1 + t2) / 2, of squared length (9 + 16 + 12) / 4.
GRAM = ((9.0, 6.0), (6.0, 16.0))


def operator_of(plan: Plan, index: int) -> MeasuredOperator:
    merge = list(plan.merges.values())[index]
    metrics = OperatorMetrics(
        before=GRAM, after=None, moved=None, flipped=None, moved_before=None, flipped_before=None
    )
    return MeasuredOperator(merge=merge, metrics=metrics)


def test_all_methods_on_the_same_experts_share_their_vectors(
    make_plan: Callable[..., Plan],
) -> None:
    """One method was measured on the first group; a group that was not has none."""
    plan = make_plan(merge=[{"method": "average"}, {"method": "ties"}])
    found = task_vectors_of(plan, [operator_of(plan, 0)])
    (key,) = found
    assert key == (plan.settings[0].name, plan.cells[0].group.name)


def test_features_by_hand(make_panel: Callable[..., Panel]) -> None:
    """Length, ratio, cosine and relative spread of two vectors; the last predictor has all."""
    panel = make_panel(np.array([[[2.0, 1.0]]]))
    key = (panel.settings[0], panel.groups[0])
    found = {each.name: each for each in vector_predictors(panel, {key: np.array(GRAM)})}
    mean_squared = 37 / 4
    spread = 25 / 2 - mean_squared
    expected = [math.log(3.5), 0.75, 0.5, math.log(spread / mean_squared)]
    singles = [each.single for each in found.values() if each.single is not None]
    assert [float(each[0, 0]) for each in singles] == pytest.approx(expected)
    assert found["task vectors, all four"].features[0, 0] == pytest.approx(expected)
    assert {each.needs for each in found.values()} == {"the experts' weights"}


def test_no_predictor_without_the_vectors_of_every_merge(
    make_panel: Callable[..., Panel],
) -> None:
    """A predictor of some merges cannot be compared with one of all; zero vectors have none."""
    panel = make_panel(np.array([[[2.0, 1.0]], [[3.0, 1.0]]]))
    key = (panel.settings[0], panel.groups[0])
    assert list(vector_predictors(panel, {key: np.array(GRAM)})) == []
    zero = {(setting, panel.groups[0]): np.zeros((2, 2)) for setting in panel.settings}
    assert list(vector_predictors(panel, zero)) == []

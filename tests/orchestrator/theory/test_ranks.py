import math
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from orchestrator.theory.intervals import widest
from orchestrator.theory.panel import Array, Mask
from orchestrator.theory.ranks import (
    ACROSS,
    POOLED,
    WITHIN,
    Correlation,
    correlations,
    least_p,
    rank_correlation,
)

MEMBERS: Mask = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=bool)


def by_kind(predictor: Array, loss: Array, members: Mask = MEMBERS) -> Mapping[str, Correlation]:
    return {each.kind: each for each in correlations(predictor, loss, members=members)}


def test_least_p_of_four_values() -> None:
    """Four values have 24 orders, two of which are as extreme as can be: 0.083."""
    assert least_p(4) == pytest.approx(2 / 24)
    assert least_p(2) == 1.0
    assert 0 <= least_p(1000) < 1e-100


def test_four_values_name_their_number_and_three_intervals() -> None:
    """An axis of four values says so, and quotes the widest of three intervals."""
    rng = np.random.default_rng(0)
    predictor, loss = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    found = by_kind(predictor, loss)[WITHIN]
    assert found.num_values == 4
    assert found.least_p == pytest.approx(0.083, abs=5e-4)
    assert set(found.intervals) == {"groups", "tasks", "settings"}
    assert found.interval == widest(found.intervals)
    assert found.interval.width == max(each.width for each in found.intervals.values())


def test_coefficients_equal_those_of_scipy() -> None:
    """Also with ties, for which both use mean ranks and tau-b."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 4, (7, 9)) * 1.0, rng.integers(0, 4, (7, 9)) * 1.0
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert rank_correlation(x, y) == pytest.approx(np.array(expected))
    found = by_kind(x, y, members=np.ones((9, 1), dtype=bool))
    assert found[POOLED].spearman == pytest.approx(stats.spearmanr(x.ravel(), y.ravel()).statistic)
    assert found[POOLED].kendall == pytest.approx(stats.kendalltau(x.ravel(), y.ravel()).statistic)


def test_three_kinds_answer_three_questions() -> None:
    """A predictor may rank groups perfectly, settings backwards, and both together in between."""
    group_level, setting_level = np.arange(4) * 10.0, np.arange(5) * 1.0
    loss = setting_level[:, None] + group_level
    predictor = -setting_level[:, None] + group_level
    found = by_kind(predictor, loss)
    assert found[WITHIN].spearman == pytest.approx(-1.0)
    assert found[ACROSS].spearman == pytest.approx(1.0)
    assert 0.5 < found[POOLED].spearman < 1.0


def test_a_predictor_without_groups_has_no_coefficient_across_them() -> None:
    """A hyperparameter is the same in all groups: it ranks none of them."""
    rng = np.random.default_rng(2)
    predictor = np.repeat(np.arange(5.0)[:, None], 4, axis=1)
    found = by_kind(predictor, rng.normal(size=(5, 4)))
    assert math.isnan(found[ACROSS].spearman)
    assert found[ACROSS].num_coefficients == 0
    assert math.isfinite(found[WITHIN].spearman)


def test_leaving_out_a_setting_shows_what_rests_on_it() -> None:
    """One outlying setting makes the whole correlation; without it there is none."""
    rng = np.random.default_rng(4)
    loss = rng.normal(scale=0.01, size=(4, 30))
    predictor = rng.normal(scale=0.01, size=(4, 30))
    loss[0] += 10
    predictor[0] += 10
    found = by_kind(predictor, loss, members=np.ones((30, 1), dtype=bool))[POOLED]
    assert found.interval.over == "settings"
    assert found.intervals["groups"].low > found.intervals["settings"].low


def test_one_group_has_no_interval_over_groups() -> None:
    """Resampling one group gives it again; the range over settings is left for all kinds."""
    loss = np.array([[1.0], [3.0], [2.0], [4.0]])
    found = by_kind(np.arange(4.0)[:, None], loss, members=np.ones((1, 2), dtype=bool))
    assert set(found) == {WITHIN, POOLED}
    for each in found.values():
        assert each.spearman == pytest.approx(0.8)
        assert math.isnan(each.intervals["groups"].width)
        assert each.interval.over == "settings"


def test_numbers_that_differ_by_rounding_are_ties() -> None:
    """The noise scale of lr 1e-4 with batches of 16 is that of 2e-4 with 64."""
    scale = [math.log(lr) - math.log(batch) / 2 for lr, batch in ((1e-4, 16), (2e-4, 64))]
    assert 0 < abs(scale[0] - scale[1]) < 1e-14
    loss = np.array([2.0, 1.0, 3.0])[:, None].repeat(4, axis=1)
    predictor = np.array([*scale, -9.0])[:, None].repeat(4, axis=1)
    found = by_kind(predictor, loss)
    exact = by_kind(np.array([0.0, 0.0, 1.0])[:, None].repeat(4, axis=1), loss)
    assert found[WITHIN].spearman == pytest.approx(exact[WITHIN].spearman)
    assert found[WITHIN].kendall == pytest.approx(exact[WITHIN].kendall)
    level = np.array([1.0, 1.0 + 2e-16, 1.0, 1.0])[None].repeat(3, axis=0)
    assert by_kind(level, loss + np.arange(4))[ACROSS].num_coefficients == 0

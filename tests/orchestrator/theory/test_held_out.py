import itertools

import numpy as np
import pytest

from orchestrator.theory.held_out import (
    BOTH,
    REGRET,
    RMSE,
    SETTING,
    SPEARMAN,
    TASK,
    Scored,
    best_penalty,
    difference,
    predict,
    total,
)
from orchestrator.theory.intervals import MAX_PARTS
from orchestrator.theory.panel import Array, Mask

GROUPS = list(itertools.combinations(range(5), 2))
MEMBERS: Mask = np.array([[task in group for task in range(5)] for group in GROUPS])
NUM_SETTINGS = 8


def world(seed: int = 0, noise: float = 0.05) -> tuple[Array, Array]:
    """Returns a feature and a loss that falls with it, beside levels of the groups."""
    rng = np.random.default_rng(seed)
    feature = rng.normal(size=(NUM_SETTINGS, 1)) + 0.1 * rng.normal(size=(1, len(GROUPS)))
    level = MEMBERS @ rng.normal(size=5) * 0.3
    loss = 3 - 0.5 * feature + level + noise * rng.normal(size=(NUM_SETTINGS, len(GROUPS)))
    return feature, loss


def scored(features: Array, loss: Array, protocol: str) -> Scored:
    held_out = predict(features, loss, members=MEMBERS, protocol=protocol)
    return Scored(held_out=held_out, measured=loss, loss=loss, prefers_low=True)


def constant(loss: Array, protocol: str) -> Scored:
    return scored(np.zeros((*loss.shape, 0)), loss, protocol)


@pytest.mark.parametrize("protocol", [SETTING, TASK, BOTH])
def test_a_true_predictor_beats_the_constant(protocol: str) -> None:
    """All three scores are better, and the widest interval of each difference says so."""
    feature, loss = world()
    mine, theirs = scored(feature[:, :, None], loss, protocol), constant(loss, protocol)
    for score, sign in ((RMSE, -1), (SPEARMAN, 1), (REGRET, -1)):
        gap, intervals = difference(mine, theirs, score=score, members=MEMBERS)
        assert sign * gap > 0
        assert all(sign * end > 0 for each in intervals.values() for end in (each.low, each.high))


def test_leaving_out_a_setting_knows_the_level_of_each_group() -> None:
    """The error is the noise alone; a left-out task adds the levels, which then are unknown."""
    feature, loss = world()
    errors = {
        protocol: total(scored(feature[:, :, None], loss, protocol), RMSE)
        for protocol in (SETTING, TASK, BOTH)
    }
    assert errors[SETTING] == pytest.approx(0.05, rel=0.3)
    assert errors[TASK] > 3 * errors[SETTING]
    assert errors[BOTH] > 3 * errors[SETTING]


def test_no_prediction_uses_the_cells_that_it_predicts() -> None:
    """Changing a setting's or a task's own losses leaves the predictions of them unchanged."""
    feature, loss = world()
    features = feature[:, :, None]
    for protocol, changed in (
        (SETTING, np.ix_([2], range(len(GROUPS)))),
        (TASK, np.ix_(range(NUM_SETTINGS), np.flatnonzero(MEMBERS[:, 1]))),
        (BOTH, np.ix_([2], np.flatnonzero(MEMBERS[:, 1]))),
    ):
        layer = 0 if protocol == SETTING else 1
        other = loss.copy()
        other[changed] += 7.0
        before, after = (
            predict(features, each, members=MEMBERS, protocol=protocol).predicted[layer][changed]
            for each in (loss, other)
        )
        assert before == pytest.approx(after, abs=1e-12)
        assert np.isfinite(before).all()


@pytest.mark.parametrize("protocol", [SETTING, TASK, BOTH])
def test_a_constant_ranks_nothing_and_chooses_at_random(protocol: str) -> None:
    """The mean of the other settings is low where a setting is high; that is no knowledge."""
    _, loss = world()
    score = constant(loss, protocol)
    assert total(score, SPEARMAN) == 0.0
    random_choice = (loss.mean(axis=0) - loss.min(axis=0)).mean()
    assert total(score, REGRET) == pytest.approx(random_choice, rel=0.02)


def test_a_noisy_feature_does_not_beat_the_constant() -> None:
    """A feature without any bearing has no smaller error on settings that were left out."""
    _, loss = world()
    rng = np.random.default_rng(9)
    noise = rng.normal(size=(NUM_SETTINGS, 1, 3)).repeat(len(GROUPS), axis=1)
    gap, intervals = difference(
        scored(noise, loss, SETTING), constant(loss, SETTING), score=RMSE, members=MEMBERS
    )
    assert gap > -0.02
    assert max(each.high for each in intervals.values()) > 0


def test_recovery_prefers_high_predictions() -> None:
    """The regret of a target that is good when high chooses the highest prediction."""
    feature, loss = world(noise=0.0)
    held_out = predict(feature[:, :, None], -loss, members=MEMBERS, protocol=SETTING)
    found = Scored(held_out=held_out, measured=-loss, loss=loss, prefers_low=False)
    assert total(found, REGRET) == pytest.approx(0.0, abs=1e-9)


def test_no_task_can_be_left_out_of_groups_of_all_tasks() -> None:
    """There is no layer then, in place of a prediction from nothing."""
    _, loss = world()
    members = np.ones((len(GROUPS), 3), dtype=bool)
    found = predict(np.zeros((*loss.shape, 0)), loss, members=members, protocol=TASK)
    assert found.predicted.shape == (0, *loss.shape)


def test_least_penalty_is_taken_where_features_say_nothing() -> None:
    """Slopes of five groups that cancel fit equally well with every penalty, but for rounding."""
    x = np.arange(8.0) - 3.5
    features = np.repeat(x[:, None, None] / x.std(), 5, axis=1)
    measured = 2 + x[:, None] * np.array([-0.3, -0.1, 0.0, 0.1, 0.3])
    assert best_penalty(features, measured) == pytest.approx(1e-4)


def test_each_of_many_settings_is_predicted_without_itself() -> None:
    """A target that no feature tells is predicted by the mean of settings that lack its own."""
    num_settings = 2 * MAX_PARTS
    measured = np.repeat(np.arange(float(num_settings))[:, None] ** 2, len(GROUPS), axis=1)
    features = np.zeros((*measured.shape, 0))
    found = predict(features, measured, members=MEMBERS, protocol=SETTING).predicted[0]
    part = np.arange(num_settings) % MAX_PARTS
    expected = [measured[part != own, 0].mean() for own in part]
    assert found == pytest.approx(np.repeat(np.array(expected)[:, None], len(GROUPS), axis=1))

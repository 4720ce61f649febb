"""Predicts merges that were left out, by ridge regression, and scores the predictions.

Three ways to leave out: a *setting* with all its groups, so that the model knows each group's own
level from other settings; a *task*, where the model is fitted to the groups without the task and
predicts the groups with it; and both at once, the hardest. Of more than `intervals.MAX_PARTS`
settings, some are left out together. The penalty is chosen by leaving out settings again, inside
the training part. Every predictor is scored in the same way, the baselines too. One departure from
THEORY's protocol: single features enter linearly, without a monotone map.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from orchestrator.theory.intervals import Indices, Interval, parts_of, three_intervals
from orchestrator.theory.panel import Array, Mask
from orchestrator.theory.ranks import known_means, rank_correlation

SETTING, TASK, BOTH = "setting", "task", "setting and task"
PROTOCOLS = (SETTING, TASK, BOTH)
RMSE, SPEARMAN, REGRET = "rmse", "spearman", "regret"
SCORES = {RMSE: -1.0, SPEARMAN: 1.0, REGRET: -1.0}
"""The scores, with the sign that makes larger numbers better."""
MIN_SETTINGS = 4
"""Fewer settings leave too few to choose a penalty among."""
_PENALTIES = np.logspace(-4, 3, 8)  # times the number of training rows, for unit features
_MAX_FOLDS = 8  # of the inner choice; more settings share a fold
_ROUNDING = 1e-9
_NUM_DRAWS = 500


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out predictions of one predictor.

    Shapes: (L, S, G), a layer per way to leave a cell out, NaN where it does not predict the cell.
    """

    predicted: Array
    ranking: Array
    """The predictions without the level, for comparing settings. The level of a model that was
    fitted without a setting is the mean of the others, which is high where the setting is low: with
    it, a predictor that knows nothing would rank the settings backwards."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The held-out predictions of one predictor beside the measured numbers."""

    held_out: HeldOut
    measured: Array
    """(S, G): the target."""
    loss: Array
    """(S, G): the loss that a choice of a setting costs."""
    prefers_low: bool
    """Whether a setting with a low prediction is chosen; a high recovery is a good one."""
    _by_group: dict[tuple[str, bytes], Array] = field(default_factory=dict)
    """Scores of the groups by score and settings, which samples of groups share."""

    def score(self, name: str, settings: Indices, groups: Indices) -> Array:
        """Returns a score of each sample of groups, as (draws,)."""
        key = (name, settings.tobytes())
        if key not in self._by_group:
            compute = {RMSE: self._squared, SPEARMAN: self._ranks, REGRET: self._regret}[name]
            self._by_group[key] = compute(settings)
        means = known_means(self._by_group[key][groups])
        return np.sqrt(means) if name == RMSE else means

    def _squared(self, settings: Indices) -> Array:
        errors = (self.held_out.predicted[:, settings] - self.measured[settings]) ** 2
        return known_means(errors.reshape(-1, errors.shape[2]).T)

    def _ranks(self, settings: Indices) -> Array:
        """Returns the mean coefficient of each group; a constant prediction ranks nothing: 0."""
        ranking, known = self._ranking(settings)
        coefficients = rank_correlation(np.swapaxes(ranking, 1, 2), self.measured[settings].T)
        return known_means(np.where(known, np.nan_to_num(coefficients, nan=0.0), np.nan).T)

    def _regret(self, settings: Indices) -> Array:
        """Returns the loss of the setting that is predicted to be best, minus the least loss.

        Settings with equal predictions are chosen among at random: the mean of their losses counts.
        """
        ranking, known = self._ranking(settings)
        loss = self.loss[settings]
        ranking = ranking if self.prefers_low else -ranking
        chosen = ranking == ranking.min(axis=1, keepdims=True)
        regret = (loss * chosen).sum(axis=1) / chosen.sum(axis=1) - loss.min(axis=0)
        return known_means(np.where(known, regret, np.nan).T)

    def _ranking(self, settings: Indices) -> tuple[Array, Mask]:
        """Returns the rounded ranking (L, S', G), 0 where there is none, and where there is one."""
        ranking = np.round(self.held_out.ranking[:, settings], 9)
        known: Mask = np.array(np.isfinite(ranking).all(axis=1))
        return np.where(known[:, None], ranking, 0.0), known


def predict(features: Array, measured: Array, *, members: Mask, protocol: str) -> HeldOut:
    """Returns the held-out predictions of a target from features.

    There is no layer where tasks are to be left out and every group has every task.

    Args:
        features: (S, G, F).
        measured: (S, G), finite.
        members: (G, T): whether the group has the task.
        protocol: One of `PROTOCOLS`.
    """
    unit = _standardized(features)
    settings = np.arange(len(measured))
    everyone = np.ones(len(members), dtype=bool)
    left_out = (
        [everyone]
        if protocol == SETTING
        else [has_task for has_task in members.T if has_task.any() and not has_task.all()]
    )
    layers = np.full((2, len(left_out), *measured.shape), np.nan)
    for layer, tested_groups in enumerate(left_out):
        trained_groups = everyone if protocol == SETTING else ~tested_groups
        for tested in [settings] if protocol == TASK else parts_of(len(settings)):
            trained = settings if protocol == TASK else np.delete(settings, tested)
            model = _fit(
                unit[trained][:, trained_groups],
                measured[trained][:, trained_groups],
                has_levels=protocol == SETTING,
            )
            cells = np.ix_(tested, tested_groups)
            layers[0][layer][cells] = model.predict(unit[cells])[..., 0]
            layers[1][layer][cells] = (unit[cells] @ model.weights[0])[..., 0]
    return HeldOut(predicted=layers[0], ranking=layers[1])


def difference(
    one: Scored, other: Scored, *, score: str, members: Mask
) -> tuple[float, dict[str, Interval]]:
    """Returns a score of one predictor minus another's, with its three intervals."""

    def statistic(settings: Indices, groups: Indices) -> Array:
        mine, theirs = (each.score(score, settings, groups) for each in (one, other))
        result: Array = mine - theirs
        return result

    num_settings, num_groups = one.loss.shape
    every = np.arange(num_settings), np.arange(num_groups)[None]
    intervals = three_intervals(
        statistic, members=members, num_settings=num_settings, num_draws=_NUM_DRAWS
    )
    return float(statistic(*every)[0]), intervals


def best_of(scored: Mapping[str, Scored], *, score: str) -> str:
    """Returns the name of the best of several predictors by a score, over all cells."""
    values = {name: total(each, score) for name, each in scored.items()}
    return max(values, key=lambda name: SCORES[score] * values[name])


def total(scored: Scored, score: str) -> float:
    """Returns a score over all settings and groups."""
    num_settings, num_groups = scored.loss.shape
    settings, groups = np.arange(num_settings), np.arange(num_groups)[None]
    return float(scored.score(score, settings, groups)[0])


@dataclass(frozen=True, kw_only=True)
class _Models:
    """Linear models of unit features: one for each of several fits and penalties."""

    weights: Array
    """(fits, F, penalties)."""
    feature_level: Array
    """(fits, 1 or G, F): the mean of the features in training."""
    level: Array
    """(fits, 1 or G): the mean of the target in training."""

    def predict(self, features: Array, *, fit: int = 0) -> Array:
        """Returns the predictions of one fit for features (S', G', F), as (S', G', penalties)."""
        unlevelled = (features - self.feature_level[fit]) @ self.weights[fit]
        predicted: Array = self.level[fit][..., None] + unlevelled
        return predicted


def _fit(features: Array, measured: Array, *, has_levels: bool) -> _Models:
    """Returns a ridge model with the penalty that predicts left-out settings best.

    Args:
        features: (S, G, F), on unit scale.
        measured: (S, G).
        has_levels: Whether every group has a level of its own, which needs the same groups later.
    """
    penalty = _best_penalty(features, measured, has_levels=has_levels)
    every = np.ones((1, len(measured)), dtype=bool)
    penalties = np.array([penalty])
    return _ridge(features, measured, trained=every, penalties=penalties, has_levels=has_levels)


def best_penalty(features: Array, measured: Array) -> float:
    """Returns the ridge penalty that predicts left-out settings best within groups.

    Args:
        features: (S, G, F), on unit scale.
        measured: (S, G).
    """
    return _best_penalty(features, measured, has_levels=True)


def _best_penalty(features: Array, measured: Array, *, has_levels: bool) -> float:
    num_settings = len(measured)
    if not features.shape[2] or num_settings < MIN_SETTINGS - 1:
        return float(_PENALTIES[0])
    num_folds = min(_MAX_FOLDS, num_settings)
    in_fold = np.arange(num_settings) % num_folds == np.arange(num_folds)[:, None]
    models = _ridge(
        features, measured, trained=~in_fold, penalties=_PENALTIES, has_levels=has_levels
    )
    errors = np.zeros(len(_PENALTIES))
    for fold, is_left_out in enumerate(in_fold):
        predicted = models.predict(features[is_left_out], fit=fold)
        errors += ((predicted - measured[is_left_out][..., None]) ** 2).sum(axis=(0, 1))
    # Where the features say nothing, errors differ by rounding alone: the least penalty is taken.
    equal = errors <= errors.min() * (1 + _ROUNDING)
    return float(_PENALTIES[int(equal.argmax())])


def _ridge(
    features: Array, measured: Array, *, trained: Mask, penalties: Array, has_levels: bool
) -> _Models:
    """Fits ridge models to several choices of settings at once.

    Args:
        features: (S, G, F), on unit scale.
        measured: (S, G).
        trained: (fits, S): the settings that each fit knows.
        penalties: (penalties,).
        has_levels: Whether every group has a level of its own.
    """
    share = trained / trained.sum(axis=1, keepdims=True)
    feature_level = np.tensordot(share, features, axes=1)
    level = share @ measured
    if not has_levels:
        feature_level = feature_level.mean(axis=1, keepdims=True)
        level = level.mean(axis=1, keepdims=True)
    gram, slope = (
        np.tensordot(share, _mean_products(features, each), axes=1)
        - _mean_products(feature_level, means)
        for each, means in ((features, feature_level), (measured[..., None], level[..., None]))
    )
    values, vectors = np.linalg.eigh(gram)  # one for all penalties
    turned = np.swapaxes(vectors, 1, 2) @ slope
    weights = vectors @ (turned / (values[..., None] + penalties))
    return _Models(weights=weights, feature_level=feature_level, level=level)


def _mean_products(one: Array, other: Array) -> Array:
    """Returns the products (..., F, F') of rows (..., G, F) and (..., G, F'), as means over G."""
    products: Array = np.swapaxes(one, -1, -2) @ other / one.shape[-2]
    return products


def _standardized(features: Array) -> Array:
    """Returns the features that vary, with mean 0 and deviation 1 over all cells."""
    flat = _rows(features)
    deviation = flat.std(axis=0)
    varies = deviation > 1e-9 * np.maximum(1.0, np.abs(flat).max(axis=0, initial=0.0))
    unit: Array = (features[:, :, varies] - flat.mean(axis=0)[varies]) / deviation[varies]
    return unit


def _rows(features: Array) -> Array:
    """Returns features (S, G, F) as (S G, F); there may be no feature."""
    num_settings, num_groups, num_features = features.shape
    return features.reshape(num_settings * num_groups, num_features)

"""Predicts the merged loss of untried settings, with the covariance of the predictions.

The loss is the mean over the study's own groups, in which the next experiment is made too. The
model is that of the predictor's record: ridge regression within groups. Its uncertainty comes from
refits, in each of which

- every task of every group has a random weight, and every group has one (Rubin 1981, the Bayesian
  bootstrap: no group drops out, however large the groups are);
- every setting has a random error of the size of the errors on left-out settings, which all groups
  share, as they share the setting's experts.

A candidate also has an error of its own of that size, as left-out settings have. Outside the values
tried, it is at least the error of the setting at that end, which was predicted from one side too.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.results.schema import MACRO
from orchestrator.theory.held_out import best_penalty
from orchestrator.theory.panel import Array, Panel

NUM_REFITS = 400
"""A standard deviation from these has a standard error of 3.5 %."""
LEVELS = (0.80, 0.95)


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Predictions of C candidates: the mean over the groups of the merged loss, in nats."""

    mean: Array
    """(C,)."""
    of_model: Array
    """(C, C): covariance of the model's part."""
    own_variance: Array
    """(C,): variance of each candidate's own error."""
    noise: float
    """Variance with which one more run of a setting would repeat its mean loss."""
    num_settings: int
    """Settings that the errors come from."""

    @property
    def variance(self) -> Array:
        """(C,): the variance of each candidate's loss."""
        total: Array = np.diag(self.of_model) + self.own_variance
        return total

    def half_width(self, level: float) -> Array:
        """Returns half the width of each candidate's interval, by Student's t."""
        factor = stats.t.ppf((1 + level) / 2, max(1, self.num_settings - 1))
        half: Array = factor * np.sqrt(self.variance)
        return half

    def chance_below(self, loss: float) -> Array:
        """Returns the probability that each candidate has less than some loss, as (C,)."""
        deviation = np.sqrt(np.maximum(self.variance, np.finfo(float).tiny))
        chance: Array = stats.t.cdf((loss - self.mean) / deviation, max(1, self.num_settings - 1))
        return chance

    def is_apart(self, one: int, other: int) -> bool:
        """Returns whether the 80 % interval of the difference of two candidates leaves out 0."""
        model = self.of_model
        variance = model[one, one] + model[other, other] - 2 * model[one, other]
        variance += self.own_variance[one] + self.own_variance[other]
        factor = stats.t.ppf((1 + LEVELS[0]) / 2, max(1, self.num_settings - 1))
        return bool(abs(self.mean[one] - self.mean[other]) > factor * np.sqrt(variance))


def fit_surrogate(
    panel: Panel, *, features: Array, end_errors: Array, residuals: Array, seed: int = 0
) -> Surrogate:
    """Returns predictions of untried settings.

    Args:
        panel: The tried settings, S of them, in G groups.
        features: (S + C, G, F): of the tried settings, then of the candidates.
        end_errors: (C,): the least own error of a candidate, nats per image; 0 inside the values
            tried.
        residuals: (S, G): errors of the predictions of left-out settings.
        seed: Seeds the refits.
    """
    num_settings = len(panel.settings)
    unit = _unit(features, num_tried=num_settings)
    tried, candidates = unit[:num_settings], unit[num_settings:]
    loss = panel.group_means("loss", mean=MACRO)
    penalty = best_penalty(tried, loss)
    own = float((residuals.mean(axis=1) ** 2).mean())
    ones = np.ones(len(panel.groups))
    slopes = _slopes(tried, loss, of_groups=ones, penalty=penalty)
    generator = np.random.default_rng(seed)
    refits = np.array(
        [
            _slopes(
                tried,
                _reweighted(panel, generator)
                + np.sqrt(own) * generator.standard_normal((num_settings, 1)),
                of_groups=generator.exponential(size=len(panel.groups)),
                penalty=penalty,
            )
            for _ in range(NUM_REFITS)
        ]
    )
    offsets = (candidates - tried.mean(axis=0)).mean(axis=1)
    covariance = np.atleast_2d(np.cov(refits, rowvar=False))
    return Surrogate(
        mean=loss.mean() + offsets @ slopes,
        of_model=offsets @ covariance @ offsets.T,
        own_variance=np.maximum(own, end_errors**2),
        noise=float((residuals**2).mean()) / len(panel.groups),
        num_settings=num_settings,
    )


def _unit(features: Array, *, num_tried: int) -> Array:
    """Returns the features that vary among tried settings, on the scale of these."""
    flat = features[:num_tried].reshape(-1, features.shape[2])
    deviation = flat.std(axis=0)
    varies = deviation > 1e-9 * np.maximum(1.0, np.abs(flat).max(axis=0, initial=0.0))
    unit: Array = (features[:, :, varies] - flat.mean(axis=0)[varies]) / deviation[varies]
    return unit


def _reweighted(panel: Panel, generator: np.random.Generator) -> Array:
    """Returns the loss of each group with randomly weighted tasks, as (S, G)."""
    weights = panel.weights(MACRO) * generator.exponential(size=len(panel.tasks))
    weights /= weights.sum(axis=1, keepdims=True)
    loss: Array = (np.where(panel.members, panel.values["loss"], 0.0) * weights).sum(axis=2)
    return loss


def _slopes(features: Array, loss: Array, *, of_groups: Array, penalty: float) -> Array:
    """Returns the slopes of a ridge regression within weighted groups, as (F,)."""
    x = features - features.mean(axis=0)
    y = loss - loss.mean(axis=0)
    share = of_groups / of_groups.sum() / len(x)
    gram = np.einsum("sgf,sgh,g->fh", x, x, share)
    slope = np.einsum("sgf,sg,g->f", x, y, share)
    slopes: Array = np.linalg.solve(gram + penalty * np.eye(len(gram)), slope)
    return slopes

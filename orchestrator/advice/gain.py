"""Knowledge gradient: how much an experiment is expected to lower the loss that can be reached.

KG(c) = min_j m_j - E min_j (m_j + change of m_j once c is measured), over all settings j, the tried
ones among them. It counts both a candidate that may be good itself and one that says much about
others. An experiment is one training; its shorter snapshots are measured with it, at no step.

Source: Frazier, Powell and Dayanik (2009), The knowledge-gradient policy for correlated normal
beliefs; here for several measurements at once, by 1,000 draws.
"""

from collections.abc import Sequence

import numpy as np

from orchestrator.advice.surrogate import Surrogate
from orchestrator.theory.panel import Array

NUM_DRAWS = 1000
_FAR = 4.0
"""Settings whose loss is this many deviations above the least mean never become the best."""
_LEAST_VARIANCE = 1e-12
"""Keeps the covariance of measurements invertible where predictions have no error."""


def knowledge_gradients(
    surrogate: Surrogate, *, experiments: Sequence[Sequence[int]], best_loss: float
) -> Array:
    """Returns the expected fall of the least mean loss for each experiment, 0 or more, in nats.

    Args:
        surrogate: The predictions of all candidates.
        experiments: The candidates that each experiment measures.
        best_loss: The least mean loss of the settings that were tried.
    """
    mean, model = surrogate.mean, surrogate.of_model
    least = min(float(mean.min()), best_loss)
    possible = np.flatnonzero(mean - _FAR * np.sqrt(surrogate.variance) <= least)
    generator = np.random.default_rng(0)
    half = generator.standard_normal((NUM_DRAWS // 2, max(map(len, experiments), default=0)))
    normal = np.concatenate([half, -half])
    gains = np.zeros(len(experiments))
    for at, measured in enumerate(experiments):
        indices = np.array(measured)
        covariance = model[np.ix_(possible, indices)].copy()
        covariance += np.equal.outer(possible, indices) * surrogate.own_variance[indices]
        observed = model[np.ix_(indices, indices)] + np.diag(
            surrogate.own_variance[indices] + surrogate.noise + _LEAST_VARIANCE
        )
        factor = np.linalg.cholesky(observed)
        changes = np.linalg.solve(factor, covariance.T).T @ normal[:, : len(indices)].T
        after = np.minimum((mean[possible, None] + changes).min(axis=0), best_loss)
        gains[at] = max(0.0, least - float(after.mean()))
    return gains

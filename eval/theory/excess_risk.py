"""Theorem 3: the test loss of a merge, as proved and as stated."""

import math
from dataclasses import dataclass

from eval.theory.generalisation import generalisation_gap, smooth_squared_gradient
from eval.theory.settings import MergeSetting, TaskConstants
from eval.theory.surrogate import heterogeneity_under
from eval.theory.training_loss import TrainingLoss, gradient_bound


@dataclass(frozen=True, kw_only=True)
class ExcessRisk:
    """The proved form of the merge's test loss, with its four moving terms, in nats."""

    training: TrainingLoss
    """Base loss, descent, interference and noise."""
    generalisation: float
    """The gap between test and training loss."""
    least_loss: float
    """`F*`."""

    @property
    def test_loss(self) -> float:
        """The bound on `E F(x_m)`: `T + gap`."""
        return self.training.total + self.generalisation

    @property
    def excess(self) -> float:
        """The bound on `E F(x_m) - F*`."""
        return self.test_loss - self.least_loss

    @property
    def terms(self) -> dict[str, float]:
        """The four terms that move along an axis, by their names."""
        return {
            "descent": self.training.descent,
            "interference": self.training.interference,
            "noise": self.training.noise,
            "generalisation": self.generalisation,
        }


def excess_risk(
    setting: MergeSetting, constants: TaskConstants, *, training: TrainingLoss, stability: float
) -> ExcessRisk:
    """Returns the proved form: `T + sqrt(G2 eps) + L1/2 eps`.

    `G2` is the smaller one of `2 L1 T` and `2 L_p (T - F*) + kappa2 + sum p_i sigma_i2`; 0 where
    an estimate is below 0.

    Args:
        setting: The tasks' weights in the metric.
        constants: Their constants at the base.
        training: `training_loss` of the same setting.
        stability: `eps`, by `stability.merge_stability`.

    Source: derived here. Departure from what is proved: `kappa2` and `sigma_i2` are those at the
    base instead of at the merge.
    """
    by_smoothness = smooth_squared_gradient(
        training.total, example_smoothness=constants.example_smoothness
    )
    by_parts = (
        gradient_bound(training, constants)
        + heterogeneity_under(constants.gram, setting.p)
        + float(setting.p @ constants.noise)
    )
    gap = generalisation_gap(
        mean_squared_gradient=max(0.0, min(by_smoothness, by_parts)),
        stability=stability,
        example_smoothness=constants.example_smoothness,
    )
    return ExcessRisk(training=training, generalisation=gap, least_loss=constants.least_loss)


def stated_excess_risk(
    *, squared_gradient: float, stability: float, smoothness: float, pl: float, factor: float = 2.0
) -> float:
    """Returns the stated excess risk, `sqrt(E_grad eps) + L/2 eps + E_grad / (c mu)`.

    It inherits the faults of the stated Lemma 1 and Theorem 2, and is no bound.

    Args:
        squared_gradient: `E_grad`, the stated bound on the merge's squared gradient.
        stability: The stated `eps`.
        smoothness: `L`.
        pl: `mu` of the PL inequality.
        factor: `c`, 1 or 2; the seed paper's text does not settle it.

    Source: the seed paper (arXiv:2601.21690), Theorem 3, by our reading.
    """
    gap = math.sqrt(squared_gradient * stability) + smoothness / 2 * stability
    return gap + squared_gradient / (factor * pl)


def stated_excess_risk_by_parts(
    *, squared_gradient: float, stability: float, smoothness: float, pl: float, factor: float = 2.0
) -> float:
    """Returns the stated form's upper end, `(L+1)/2 eps + (1/2 + 1/(c mu)) E_grad`."""
    return (smoothness + 1) / 2 * stability + (1 / 2 + 1 / (factor * pl)) * squared_gradient

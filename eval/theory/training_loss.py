"""Theorem 2: the training loss of a merge, in terms that show what a longer training costs."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.theory.labels import Reach
from eval.theory.settings import MergeSetting, TaskConstants
from eval.theory.surrogate import (
    effective_length,
    heterogeneity_under,
    mixture_squared_gradient,
    squared_bias,
    surrogate_weights,
)

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrainingLoss:
    """The proved form of the merge's training loss `T`, term by term, in nats."""

    base_loss: float
    """`F_S(x_0)`, of the tasks' weighted mean at the base."""
    descent: float
    """`-H g2 / 2`: what the step gains."""
    interference: float
    """`H (B + sqrt D)^2 / 2`: unequal weights of the tasks, and the experts' drift."""
    noise: float
    """`L_p V`: the batches' noise that averaging leaves."""

    @property
    def total(self) -> float:
        """`T`."""
        return self.base_loss + self.descent + self.interference + self.noise


def training_loss(setting: MergeSetting, constants: TaskConstants) -> TrainingLoss:
    """Returns the proved bound on `E F_S(x_m)`, from constants at the base alone.

        F_S(x_0) - H/2 g2 + H/2 (B + sqrt D)^2 + L_p V

    Inside its range (`reach_of`) it is a bound. Squares that noise makes negative count as 0 under
    a root; `descent` takes `g2` as it is.

    Source: derived here, from smoothness at the base along the experts' mean directions. It stands
    in for the seed paper's Theorem 2 (`stated_gradient_norm`).

    Raises:
        ValueError: The surrogate's weights are not weights.
    """
    length = _length(setting)
    weights = _weights(setting)
    bias = math.sqrt(max(0.0, squared_bias(constants.gram, weights=setting.p, surrogate=weights)))
    drift = float(np.sqrt(np.maximum(0.0, weights @ drifts(setting, constants))))  # NaN stays
    return TrainingLoss(
        base_loss=float(setting.p @ constants.losses),
        descent=-length / 2 * mixture_squared_gradient(constants.gram, setting.p),
        interference=length / 2 * (bias + drift) ** 2,
        noise=constants.mixture_smoothness * merged_noise(setting, constants),
    )


def drifts(setting: MergeSetting, constants: TaskConstants) -> Vector:
    """Returns `D_i`, the squared change of each expert's direction during its training, shape (N,).

    plain SGD: L_i^2 lr_i^2 (2 (K_i - 1) sigma_i2 / b_i + 8/3 K_i (K_i - 1) G_i2)
    others:    L_i^2 lr_i^2 (4 (|a_i|^2 - a_last^2) sigma_i2 / b_i + 8 (A_i - a_last)^2 G_i2)
    """
    values = []
    for index, a in enumerate(setting.accumulations):
        per_batch = constants.noise[index] / setting.b[index]
        squared_gradient = max(0.0, float(constants.gram[index, index]))
        steps = a.inner.size
        if steps == 0:
            inside = 0.0
        elif a.is_plain:
            inside = 2 * (steps - 1) * per_batch + 8 / 3 * steps * (steps - 1) * squared_gradient
        else:
            inside = (
                4 * (a.inner_sum_of_squares - a.inner_last**2) * per_batch
                + 8 * (a.inner_total - a.inner_last) ** 2 * squared_gradient
            )
        values.append((constants.smoothness[index] * setting.eta[index]) ** 2 * inside)
    return np.array(values)


def merged_noise(setting: MergeSetting, constants: TaskConstants) -> float:
    """Returns `V = sum alpha_i^2 lr_i^2 |a_i|^2 sigma_i2 / b_i`, a squared distance of weights."""
    squares = np.array([each.sum_of_squares for each in setting.accumulations])
    per_batch = constants.noise / setting.b
    return float(np.sum(setting.alpha**2 * setting.eta**2 * squares * per_batch))


def reach_of(
    setting: MergeSetting, constants: TaskConstants, *, path: float | None = None
) -> Reach:
    """Returns the reach of a setting: `L_p H`, and `lr_i L_i A_i` of each expert.

    `A_i` is the inner vector's sum: an average of weights does not shorten the training itself.
    Curvature that was not measured (NaN) gives a reach that is not measured.
    """
    inner = np.array([each.inner_total for each in setting.accumulations])
    of_merge = constants.mixture_smoothness * _length(setting)
    of_experts = setting.eta * constants.smoothness * inner
    is_known = math.isfinite(of_merge) and bool(np.isfinite(of_experts).all())
    return Reach(
        merge=of_merge if is_known else None,
        experts=tuple(of_experts.tolist()) if is_known else (),
        is_plain_sgd=setting.is_plain_sgd,
        path=path,
    )


def gradient_bound(training: TrainingLoss, constants: TaskConstants) -> float:
    """Returns `2 L_p (T - F*)`, the proved bound on `|grad F_S(x_m)|^2`."""
    return 2 * constants.mixture_smoothness * (training.total - constants.least_loss)


def descent_under_pl(
    training: TrainingLoss, *, length: float, pl: float, least_loss: float
) -> float:
    """Returns `F* + (1 - mu H) (F_S(x_0) - F*)`: base loss and descent under the PL inequality.

    Args:
        training: The terms; only the base's loss is used.
        length: `H`.
        pl: `mu`, with `F - F* <= |grad F|^2 / (2 mu)`; a local one where it was measured.
        least_loss: `F*`.
    """
    return least_loss + (1 - pl * length) * (training.base_loss - least_loss)


def optimal_length(setting: MergeSetting, constants: TaskConstants) -> float:
    """Returns `H_opt`, the training length at which the proved form is least.

        sqrt(max(0, g2 - 2 L_p lr sigma2 / (b N)) / (8 sum w_i G_i2)) / L

    It holds for equal settings, `p = w` and many steps. It is 0 where the noise exceeds the gain:
    then no training helps. `D`'s own noise is left out.

    Departures: unequal settings put `sum w_i alpha_i lr_i sigma_i2 |a_i|^2 / (A_i b_i)` in place of
    `lr sigma2 / (b N)` and `sum w_i L_i^2 G_i2` in place of `L^2 sum w_i G_i2`. The 8 becomes a 24
    for optimizers other than plain SGD, whose `D` is three times as large.
    """
    weights = _weights(setting)
    squares = np.array([each.sum_of_squares for each in setting.accumulations])
    per_length = setting.alpha * setting.eta * squares / setting.totals
    noise = float(np.sum(weights * per_length * constants.noise / setting.b))
    gain = mixture_squared_gradient(constants.gram, setting.p)
    gain -= 2 * constants.mixture_smoothness * noise
    lengths = np.maximum(0.0, np.diag(constants.gram))
    curved = float(np.sum(weights * constants.smoothness**2 * lengths))
    factor = 8 if setting.is_plain_sgd else 24
    return math.sqrt(max(0.0, gain) / (factor * curved)) if curved > 0 else math.inf


def stated_gradient_norm(setting: MergeSetting, constants: TaskConstants) -> float:
    """Returns the stated bound on `|grad F~|^2`: FedNova's Theorem 1 with one round.

        4 D0/H + 4 H L sum w_i^2 s_i |a_i|^2/A_i^2 + 6 L^2 sum w_i lr_i^2 s_i (|a_i|^2 - a_last^2)
          + 12 L^2 kappa2 max lr_i^2 A_i (A_i - a_last)

    `s_i = sigma_i2 / b_i` is the variance of one step's gradient, as FedNova means it; `L` is the
    largest `L_i`, and `D0 = F~(x_0) - F*`.

    It is no statement about the merge: FedNova bounds the least gradient over the points where
    rounds begin, and with one round that is the base.

    Source: Wang 2020 (FedNova), arXiv:2007.07481, Theorem 1, its constants from memory; the seed
    paper (arXiv:2601.21690), Theorem 2. Departure: learning rates may differ, so they stand inside
    the sum and the maximum.
    """
    length, weights = _length(setting), _weights(setting)
    smoothness = float(constants.smoothness.max())
    per_step = constants.noise / setting.b
    squares = np.array([each.sum_of_squares for each in setting.accumulations])
    last = np.array([each.inner_last for each in setting.accumulations])
    totals, eta = setting.totals, setting.eta
    start = float(weights @ constants.losses) - constants.least_loss
    heterogeneity = heterogeneity_under(constants.gram, setting.p)
    return float(
        4 * start / length
        + 4 * length * smoothness * np.sum(weights**2 * per_step * squares / totals**2)
        + 6 * smoothness**2 * np.sum(weights * eta**2 * per_step * (squares - last**2))
        + 12 * smoothness**2 * heterogeneity * np.max(eta**2 * totals * (totals - last))
    )


def stated_transfer(
    surrogate_squared_gradient: float, *, chi_square: float, heterogeneity: float, beta: float = 1.0
) -> float:
    """Returns the stated step from the surrogate's gradient to that of the metric's mixture.

        2 (chi2 (beta^2 - 1) + 1) |grad F~|^2 + 2 chi2 kappa2

    Source: Wang 2020, arXiv:2007.07481, Theorem 2; the seed paper takes `beta = 1`.
    """
    factor = 2 * (chi_square * (beta**2 - 1) + 1)
    return factor * surrogate_squared_gradient + 2 * chi_square * heterogeneity


def _length(setting: MergeSetting) -> float:
    return effective_length(coefficients=setting.alpha, lr=setting.eta, totals=setting.totals)


def _weights(setting: MergeSetting) -> Vector:
    return surrogate_weights(coefficients=setting.alpha, lr=setting.eta, totals=setting.totals)

"""Lemma 1: the generalisation gap of a merge from its stability, as proved and as stated."""

import math


def mean_squared_gradient(
    *, mixture_squared_gradient: float, heterogeneity: float, mean_noise: float
) -> float:
    """Returns `G2 = |grad F_S|^2 + kappa2 + sum p_i sigma_i2`, all at the merge.

    It is the mean square of the training examples' own gradients.

    Args:
        mixture_squared_gradient: `|grad F_S(x_m)|^2` of the tasks' weighted mean.
        heterogeneity: `kappa2(x_m)`.
        mean_noise: `sum p_i sigma_i2(x_m)`.
    """
    return mixture_squared_gradient + heterogeneity + mean_noise


def smooth_squared_gradient(loss: float, *, example_smoothness: float) -> float:
    """Returns `2 L1 F_S(x_m)`, which bounds `G2` for a smooth loss that is never negative.

    Source: Lei and Ying 2020, arXiv:2006.08157. Use the smaller one of the two.
    """
    return 2 * example_smoothness * loss


def generalisation_gap(
    *, mean_squared_gradient: float, stability: float, example_smoothness: float
) -> float:
    """Returns the proved bound on `E[F(x_m) - F_S(x_m)]`: `sqrt(G2 eps) + L1/2 eps`.

    Args:
        mean_squared_gradient: `G2`, of the examples' own gradients at the merge.
        stability: `eps` of the merge.
        example_smoothness: `L1`, of one example's loss.

    Source: derived here, after Lei and Ying 2020 (arXiv:2006.08157), for
    `G2 / (2 gamma) + (L1 + gamma) / 2 eps` at its least, `gamma = sqrt(G2 / eps)`.
    """
    return math.sqrt(mean_squared_gradient * stability) + example_smoothness / 2 * stability


def stated_generalisation_gap(
    *, mixture_squared_gradient: float, stability: float, smoothness: float
) -> float:
    """Returns the stated gap, with the mixture's gradient in place of the examples' own.

    It is no bound: at the minimiser of mean estimation the gradient is 0, the gap is `sigma2 / n`,
    and this is `sigma2 / n^2`. Source: the seed paper (arXiv:2601.21690), Lemma 1, by our reading.
    """
    return math.sqrt(mixture_squared_gradient * stability) + smoothness / 2 * stability

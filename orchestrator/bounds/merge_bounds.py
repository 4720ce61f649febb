"""Computes all statements of the theory about one merge, each with its label."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from eval.theory.excess_risk import ExcessRisk, excess_risk, stated_excess_risk
from eval.theory.labels import (
    REASONS_AGAINST_A_BOUND,
    Form,
    Labelled,
    Reach,
    Reason,
    reasons_of,
)
from eval.theory.settings import MergeSetting, TaskConstants
from eval.theory.spread import dare_stability_factor
from eval.theory.stability import (
    GrowthSums,
    expert_stability,
    general_growth,
    merge_stability,
    smooth_growth,
    stated_stability,
)
from eval.theory.surrogate import (
    agreement,
    chi_square,
    effective_length,
    heterogeneity_under,
    mixture_squared_gradient,
    surrogate_weights,
    task_heterogeneity,
)
from eval.theory.training_loss import (
    optimal_length,
    reach_of,
    stated_gradient_norm,
    training_loss,
)
from orchestrator.record.task_constants import MeasuredTasks
from workers.specs.merge import MergeSpec

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MergeBounds:
    """The statements about one merge. Losses in nats, stability in squared distance of weights."""

    stability: Labelled
    """The proved form; with growth factors of 1 where the reach is outside, which is a score."""
    stated_stability: Labelled
    training_loss: Labelled
    """The proved form `T`; NaN where curvature was not measured, as are the following."""
    excess: Labelled
    """The proved form of the test loss, less `F*`."""
    stated_gradient: Labelled
    """The stated form of the squared gradient (FedNova's, with one round)."""
    stated_excess: Labelled
    """The stated form of the excess risk; NaN without curvature, or where noise hides the slope."""
    risk: ExcessRisk
    """The terms of the proved form: descent, interference, noise, generalisation."""
    reach: Reach
    effective_length: float
    """`H`."""
    optimal_length: float
    """`H_opt`."""
    weights: tuple[float, ...]
    """The surrogate weights `w_i`, which unequal steps and rates imply."""
    chi_square: float
    agreement: float
    heterogeneity: float
    """`kappa2`."""

    def proved(self, value: float) -> Labelled:
        """Returns a part of the proved form with the label of the whole."""
        return replace(self.excess, value=value)


def bounds_of(
    merge: MergeSpec,
    setting: MergeSetting,
    *,
    measured: MeasuredTasks,
    path: float | None = None,
    has_diverged: bool = False,
) -> MergeBounds:
    """Returns the statements about a merge.

    Args:
        merge: A merge whose setting is known (`merge_setting.merge_setting_of`).
        setting: Its setting.
        measured: The constants of its base on its tasks.
        path: The largest path reach of its tasks; None if not measured.
        has_diverged: Whether an expert has diverged.

    Raises:
        ValueError: A task was not measured, or the coefficients give no surrogate weights.
    """
    tasks = [expert.task for expert in merge.experts]
    constants = measured.of_group(tasks)
    reach = reach_of(setting, constants, path=path)
    reasons = _reasons(merge, setting=setting, measured=measured, has_diverged=has_diverged)
    can_be_bound = reach.is_inside and REASONS_AGAINST_A_BOUND.isdisjoint(reasons)
    stability = _stability(merge, setting=setting, constants=constants, grows=can_be_bound)
    training = training_loss(setting, constants)
    risk = excess_risk(setting, constants, training=training, stability=stability)
    given = {"coefficients": setting.alpha, "lr": setting.eta, "totals": setting.totals}
    weights = surrogate_weights(**given)

    stated_eps = _stated(setting, constants)
    stated_gradient = stated_gradient_norm(setting, constants)

    def labelled(value: float, *, form: Form) -> Labelled:
        return Labelled(value=value, form=form, reach=reach, reasons=reasons)

    return MergeBounds(
        stability=labelled(stability, form=Form.PROVED),
        stated_stability=labelled(stated_eps, form=Form.STATED),
        training_loss=labelled(training.total, form=Form.PROVED),
        excess=labelled(risk.excess, form=Form.PROVED),
        stated_gradient=labelled(stated_gradient, form=Form.STATED),
        stated_excess=labelled(
            _stated_excess(setting, constants, gradient=stated_gradient, stability=stated_eps),
            form=Form.STATED,
        ),
        risk=risk,
        reach=reach,
        effective_length=effective_length(**given),
        optimal_length=optimal_length(setting, constants),
        weights=tuple(weights.tolist()),
        chi_square=chi_square(setting.p, weights),
        agreement=agreement(constants.gram, setting.p),
        heterogeneity=heterogeneity_under(constants.gram, setting.p),
    )


def _stability(
    merge: MergeSpec, *, setting: MergeSetting, constants: TaskConstants, grows: bool
) -> float:
    """Returns the proved stability; DARE's masks raise it by exactly `1 / density`.

    A score has no growth factor, at whatever reach: with it on one side of the range and without it
    on the other, the least learning rates would have the largest numbers.
    """
    experts = [
        expert_stability(
            _growth(setting, index, constants=constants, grows=grows),
            lr=float(setting.eta[index]),
            noise=max(0.0, float(constants.noise[index])),
            batch_size=int(setting.b[index]),
            num_examples=int(setting.n[index]),
        )
        for index in range(len(merge.experts))
    ]
    stability = merge_stability(experts, weights=setting.p, coefficients=setting.alpha)
    is_dare = merge.method == "dare"
    return stability * (dare_stability_factor(merge.params["density"]) if is_dare else 1.0)


def _growth(
    setting: MergeSetting, index: int, *, constants: TaskConstants, grows: bool
) -> GrowthSums:
    accumulation, lr = setting.accumulations[index], float(setting.eta[index])
    if not grows:
        return general_growth(accumulation, lr=lr)
    smoothness = constants.example_smoothness
    if accumulation.is_plain and np.array_equal(accumulation.entries, accumulation.inner):
        return smooth_growth(accumulation.inner.size, lr=lr, smoothness=smoothness)
    return general_growth(accumulation, lr=lr, smoothness=smoothness)


def _stated(setting: MergeSetting, constants: TaskConstants) -> float:
    return stated_stability(
        coefficients=setting.alpha,
        lr=setting.eta,
        steps=[each.entries.size for each in setting.accumulations],
        noise=constants.noise,
        heterogeneity=task_heterogeneity(constants.gram, setting.p),
        batch_sizes=setting.b,
        num_examples=setting.n,
    )


def _stated_excess(
    setting: MergeSetting, constants: TaskConstants, *, gradient: float, stability: float
) -> float:
    """Returns the stated excess risk with `mu = g2 / (2 F_S)` of the base, which is a local one.

    NaN where noise hides the slope, or makes an unbiased estimate of a square negative.
    """
    slope = mixture_squared_gradient(constants.gram, setting.p)
    loss = float(setting.p @ constants.losses)
    if not slope > 0 or gradient < 0 or stability < 0:
        return math.nan
    return stated_excess_risk(
        squared_gradient=gradient,
        stability=stability,
        smoothness=constants.mixture_smoothness,
        pl=slope / (2 * loss),
    )


def _reasons(
    merge: MergeSpec, *, setting: MergeSetting, measured: MeasuredTasks, has_diverged: bool
) -> tuple[Reason, ...]:
    metrics = [measured.metrics[expert.task] for expert in merge.experts]
    has_batch_norm = any(each.has_batch_norm for each in metrics)
    return reasons_of(
        has_kinks=any(each.has_kinks for each in metrics),
        is_batch_coupled=has_batch_norm
        and not all(expert.constants.freeze_batch_norm for expert in merge.experts),
        head_moves=any(expert.trains_head for expert in merge.experts),
        uses_adam=any(each.hyperparameters.optimizer != "sgd" for each in merge.experts),
        has_diverged=has_diverged,
        coefficient_sum=float(setting.alpha.sum()),
        has_curvature=all(each.curvature is not None for each in metrics),
    )

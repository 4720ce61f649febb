"""Predictors from the constants of a base on its tasks, measured before any training.

They need one gradient for each of some hundred images a task. Those with the curvature are the
theory's own forms; real training lies outside the range of their proofs, so all are scores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from eval.theory.excess_risk import excess_risk
from eval.theory.labels import Form
from eval.theory.settings import MergeSetting, TaskConstants
from eval.theory.stability import expert_stability, general_growth, merge_stability
from eval.theory.surrogate import agreement, heterogeneity_under
from eval.theory.training_loss import training_loss
from orchestrator.record.task_constants import MeasuredTasks
from orchestrator.theory.features import MEASURED, SCORE, Predictor, Trainings
from orchestrator.theory.panel import Array, Panel

MeasuredBases = Mapping[str, MeasuredTasks]
"""The constants of each setting's base, by the setting's name."""
Formula = Callable[[MergeSetting, TaskConstants], float]

_NEEDS = "the base's gradients"
_NEEDS_CURVATURE = "the base's gradients and curvature"


Coefficients = Mapping[tuple[str, str], Mapping[str, float]]
"""The coefficient of each task's expert, by the names of method and group."""


def base_predictors(
    panel: Panel,
    *,
    trainings: Trainings,
    measured: MeasuredBases,
    mean: str,
    coefficients: Coefficients | None = None,
) -> Iterator[Predictor]:
    """Yields the predictors whose constants are measured and whose values are finite.

    Args:
        panel: The merges of one method.
        trainings: How the experts are trained.
        measured: The constants of each setting's base.
        mean: The metric, `macro` or `union`.
        coefficients: Those of the methods that have some; the average's stand in for the others.
    """
    formulas: dict[str, tuple[str, str, Formula]] = {
        "gradient agreement": (MEASURED, _NEEDS, _agreement),
        "gradient heterogeneity": (MEASURED, _NEEDS, _heterogeneity),
        "initial loss": (MEASURED, _NEEDS, _initial_loss),
        "descent": (_PROVED, _NEEDS, _descent),
        "training loss proved": (_PROVED, _NEEDS_CURVATURE, _ln_training_loss),
        "test loss proved": (_PROVED, _NEEDS_CURVATURE, _ln_test_loss),
    }
    for name, (label, needs, formula) in formulas.items():
        values = _values(
            panel, trainings, measured, formula, mean=mean, coefficients=coefficients or {}
        )
        if np.isfinite(values).all():
            yield Predictor(name=name, label=label, needs=needs, features=values[:, :, None])


_PROVED = f"{SCORE}: {Form.PROVED} form"


def _agreement(setting: MergeSetting, constants: TaskConstants) -> float:
    return agreement(constants.gram, setting.p)


def _heterogeneity(setting: MergeSetting, constants: TaskConstants) -> float:
    return heterogeneity_under(constants.gram, setting.p)


def _initial_loss(setting: MergeSetting, constants: TaskConstants) -> float:
    return float(setting.p @ constants.losses)


def _descent(setting: MergeSetting, constants: TaskConstants) -> float:
    return training_loss(setting, constants).descent


def _ln_training_loss(setting: MergeSetting, constants: TaskConstants) -> float:
    return _ln(training_loss(setting, constants).total)


def _ln_test_loss(setting: MergeSetting, constants: TaskConstants) -> float:
    """Returns ln of the test loss; differences grow by no factor at any setting, as in a score."""
    experts = [
        expert_stability(
            general_growth(a, lr=float(eta)),
            lr=float(eta),
            noise=float(noise),
            batch_size=int(batch),
            num_examples=int(examples),
        )
        for a, eta, noise, batch, examples in zip(
            setting.accumulations, setting.eta, constants.noise, setting.b, setting.n, strict=True
        )
    ]
    stability = merge_stability(experts, weights=setting.p, coefficients=setting.alpha)
    training = training_loss(setting, constants)
    return _ln(excess_risk(setting, constants, training=training, stability=stability).test_loss)


def _ln(value: float) -> float:
    return float(np.log(value)) if value > 0 else float("nan")


def _values(
    panel: Panel,
    trainings: Trainings,
    measured: MeasuredBases,
    formula: Formula,
    *,
    mean: str,
    coefficients: Coefficients,
) -> Array:
    """Returns a formula's value for the merge of each group at each setting, as (S, G)."""
    weights = panel.weights(mean)
    values = np.empty((len(panel.settings), len(panel.groups)))
    for at, name in enumerate(panel.settings):
        for group, has_task in enumerate(panel.members):
            members = np.flatnonzero(has_task)
            tasks = [panel.tasks[member] for member in members]
            trained = [trainings[name][task] for task in tasks]
            setting = MergeSetting(
                weights=weights[group, members],
                coefficients=_coefficients(
                    coefficients.get((panel.method, panel.groups[group])), tasks
                ),
                lr=[each.lr for each in trained],
                batch_sizes=[each.batch_size for each in trained],
                num_examples=[each.num_examples for each in trained],
                accumulations=tuple(each.accumulation for each in trained),
            )
            values[at, group] = formula(setting, measured[name].of_group(tasks))
    return values


def _coefficients(known: Mapping[str, float] | None, tasks: Sequence[str]) -> Array:
    if known is None:
        return np.full(len(tasks), 1 / len(tasks))
    return np.array([known[task] for task in tasks])

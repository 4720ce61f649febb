"""The predictors that need no model: hyperparameters, and formulas of them.

A formula's number for a group is the mean over its tasks, so that experts of unequal
hyperparameters count as they are. Predictors are logarithms: their constants then are an offset.

Sources: `noise scale` is our feature for the effective noise of arXiv 2510.04686, whose own formula
was not found; the square-root rule for Adam is arXiv 2205.10287. `update size` is the norm law of
`eval.theory.accumulation.expected_norm`, without the number of weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from eval.theory.accumulation import Accumulation
from eval.theory.labels import Form
from eval.theory.stability import (
    expert_stability,
    general_growth,
    merge_stability,
    stated_stability,
)
from orchestrator.theory.panel import Array, Panel

MEASURED = "measured"
SCORE = "score"
"""Labels: a number that the study measured, and a formula whose scale means nothing."""


@dataclass(frozen=True, kw_only=True)
class ExpertTraining:
    """The training of one expert, as far as formulas know it."""

    steps: int
    batch_size: int
    lr: float
    """Peak learning rate."""
    momentum: float
    """SGD's momentum, or Adam's first decay rate."""
    is_adam: bool
    num_examples: int
    """Training images after `data_ratio`."""
    accumulation: Accumulation
    """The count of each step's gradient in the weights at the end."""


MAX_KNOTS = 8
"""Most knots of a piecewise linear predictor along an axis."""

Trainings = Mapping[str, Mapping[str, ExpertTraining]]
"""The training of every task's expert, by the setting's name."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Features of every merge from which its loss is predicted."""

    name: str
    label: str
    """`measured`, `score`, or `score: stated form` and `score: proved form`."""
    needs: str
    """Everything that must exist before the predictor can be computed."""
    features: Array
    """(S, G, F); NaN at settings where the predictor has no value."""
    is_baseline: bool = False

    @property
    def single(self) -> Array | None:
        """The one feature as (S, G), if there is just one."""
        return self.features[:, :, 0] if self.features.shape[2] == 1 else None

    @property
    def known_settings(self) -> list[int]:
        """The indices of the settings at which every group has a value."""
        return [int(at) for at in np.flatnonzero(np.isfinite(self.features).all(axis=(1, 2)))]

    def at(self, settings: Sequence[int]) -> "Predictor":
        """Returns the predictor of some settings."""
        return replace(self, features=self.features[list(settings)])


def baselines(panel: Panel, *, mean: str) -> tuple[Predictor, ...]:
    """Returns the three baselines that a predictor must beat."""
    shape = panel.group_means("loss", mean=mean).shape
    return (
        Predictor(
            name="constant",
            label=MEASURED,
            needs="nothing",
            features=np.zeros((*shape, 0)),
            is_baseline=True,
        ),
        *(
            Predictor(
                name=name,
                label=MEASURED,
                needs=needs,
                features=panel.group_means(name, mean=mean)[:, :, None],
                is_baseline=True,
            )
            for name, needs in (
                ("base_loss", "the experts' heads"),
                ("expert_loss", "the experts, evaluated on test images"),
            )
        ),
    )


def hyperparameter_predictors(
    panel: Panel, *, trainings: Trainings, mean: str, knots: Sequence[str] = ()
) -> Iterator[Predictor]:
    """Yields the predictors that need only the study file and the number of images.

    Args:
        panel: The merges.
        trainings: How their experts are trained.
        mean: The mean over tasks.
        knots: The settings whose values may be knots; all of the panel's if empty.
    """
    known = [each for name in knots or panel.settings for each in trainings[name].values()]

    def of(name: str, *columns: Callable[[ExpertTraining], float]) -> Predictor:
        features = [_over_tasks(panel, trainings, column, mean=mean) for column in columns]
        return Predictor(
            name=name, label=SCORE, needs="the study file", features=np.stack(features, axis=2)
        )

    monotone = (_ln_lr, _ln_batch, _ln_steps, lambda each: 1 / each.num_examples)
    parabola = (*monotone, lambda each: _ln_lr(each) ** 2)
    yield of("hyperparameters", *parabola)
    yield of("hyperparameters, turn in steps", *parabola, lambda each: _ln_steps(each) ** 2)
    yield of("hyperparameters, monotone", *monotone)
    yield of(
        "hyperparameters, piecewise linear",
        *(
            part
            for column in (_ln_lr, _ln_batch, _ln_steps, _ln_images)
            for part in (column, *_hinges(column, values=[column(each) for each in known]))
        ),
    )
    yield of("noise scale", _ln_noise)
    yield of("noise scale, parabola", _ln_noise, lambda each: _ln_noise(each) ** 2)
    yield of(
        "update size",
        lambda each: _ln_lr(each) + float(np.log(each.accumulation.sum_of_squares)) / 2,
    )
    yield of(
        "epochs", lambda each: _ln_steps(each) + _ln_batch(each) - float(np.log(each.num_examples))
    )


def stability_predictors(panel: Panel, *, trainings: Trainings, mean: str) -> Iterator[Predictor]:
    """Yields ln eps of the average, as stated and as proved, with all constants of tasks at 1.

    With constants at 1 and no curvature neither is a bound. Another scaling of the merge multiplies
    all of them by one factor.
    """
    weights = panel.weights(mean)
    for form, stability in ((Form.STATED, _stated), (Form.PROVED, _proved)):
        values = np.empty((len(panel.settings), len(panel.groups), 1))
        for at, setting in enumerate(panel.settings):
            for group, has_task in enumerate(panel.members):
                tasks = np.flatnonzero(has_task)
                trained = [trainings[setting][panel.tasks[task]] for task in tasks]
                values[at, group, 0] = np.log(stability(trained, weights[group, tasks]))
        yield Predictor(
            name=f"eps {form}",
            label=f"{SCORE}: {form} form",
            needs="the study file",
            features=values,
        )


def _stated(trained: Sequence[ExpertTraining], _: Array) -> float:
    ones = np.ones(len(trained))
    return stated_stability(
        coefficients=ones / len(trained),
        lr=[each.lr for each in trained],
        steps=[each.steps for each in trained],
        noise=ones,
        heterogeneity=ones,
        batch_sizes=[each.batch_size for each in trained],
        num_examples=[each.num_examples for each in trained],
    )


def _proved(trained: Sequence[ExpertTraining], weights: Array) -> float:
    experts = [
        expert_stability(
            general_growth(each.accumulation, lr=each.lr),
            lr=each.lr,
            noise=1.0,
            batch_size=each.batch_size,
            num_examples=each.num_examples,
        )
        for each in trained
    ]
    average = np.full(len(trained), 1 / len(trained))
    return merge_stability(experts, weights=weights, coefficients=average)


def _hinges(
    column: Callable[[ExpertTraining], float], *, values: Sequence[float]
) -> list[Callable[[ExpertTraining], float]]:
    """Returns the hinges max(0, x - knot) of a linear spline with knots at the inner values."""
    inner = np.unique(np.round(values, 9))[1:-1]
    if len(inner) > MAX_KNOTS:
        inner = np.quantile(inner, np.linspace(0, 1, MAX_KNOTS))
    return [partial(_above, column=column, knot=float(knot)) for knot in inner]


def _above(
    training: ExpertTraining, *, column: Callable[[ExpertTraining], float], knot: float
) -> float:
    return max(0.0, column(training) - knot)


def _ln_lr(training: ExpertTraining) -> float:
    return float(np.log(training.lr))


def _ln_batch(training: ExpertTraining) -> float:
    return float(np.log(training.batch_size))


def _ln_steps(training: ExpertTraining) -> float:
    return float(np.log(training.steps))


def _ln_images(training: ExpertTraining) -> float:
    return float(np.log(training.num_examples))


def _ln_noise(training: ExpertTraining) -> float:
    """Returns ln S: eta / (b (1 - rho)) for SGD with momentum rho, eta / sqrt(b) for Adam."""
    if training.is_adam:
        return _ln_lr(training) - _ln_batch(training) / 2
    return _ln_lr(training) - _ln_batch(training) - float(np.log(1 - training.momentum))


def _over_tasks(
    panel: Panel,
    trainings: Trainings,
    column: Callable[[ExpertTraining], float],
    *,
    mean: str,
) -> Array:
    """Returns the mean of a number over the tasks of each group, as (S, G)."""
    by_task = np.array(
        [[column(trainings[setting][task]) for task in panel.tasks] for setting in panel.settings]
    )
    means: Array = by_task @ panel.weights(mean).T
    return means

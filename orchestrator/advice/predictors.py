"""Chooses a method's predictor by its record: how well it predicts settings that were left out.

The record is that of `theory`: leave one setting out, with the same scores and intervals. Only
predictors whose inputs are known before training can predict an untried setting. The constant is
the baseline that is left to them: the experts' own loss and the base's loss under their heads
exist only after training, and their records are shown beside.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.advice.tried import Tried
from orchestrator.results.schema import MACRO
from orchestrator.theory.base_features import Coefficients, MeasuredBases, base_predictors
from orchestrator.theory.features import (
    Predictor,
    Trainings,
    baselines,
    hyperparameter_predictors,
    stability_predictors,
)
from orchestrator.theory.held_out import (
    REGRET,
    RMSE,
    SETTING,
    Scored,
    difference,
    predict,
    total,
)
from orchestrator.theory.intervals import Interval, widest
from orchestrator.theory.panel import Array, Panel

CONSTANT = "constant"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that predictors read besides a panel."""

    trainings: Trainings
    """By setting; candidates are settings too."""
    measured: MeasuredBases | None
    """The constants of each setting's base; None if they are not measured."""
    coefficients: Coefficients
    """The coefficients of methods that have some before they merge."""
    knots: tuple[str, ...] = ()
    """The tried settings, whose values are the knots of a piecewise linear predictor."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The record of one predictor on settings that were left out, in nats per image."""

    error: float
    """Root mean square over merges."""
    regret: float
    """Loss of the setting that it would choose, minus the least loss; mean over groups."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The best predictor of a method beside the baselines."""

    predictor: str
    label: str
    score: Score
    constant: Score
    difference: float
    """The predictor's error minus the constant's."""
    interval: Interval
    """The widest of the three intervals of `difference`."""
    after_training: Mapping[str, Score]
    """The baselines that exist only after training, by name."""
    residuals: Array
    """(S, G): prediction minus measured loss at each setting that was left out."""
    num_settings: int
    num_groups: int

    @property
    def is_supported(self) -> bool:
        """Whether the predictor may rank untried settings.

        Its error is below the constant's beyond all three intervals, and it chooses no worse
        settings than a random choice does.
        """
        return self.interval.high < 0 and self.score.regret <= self.constant.regret


def best_record(tried: Tried, inputs: Inputs) -> Record:
    """Returns the record of the predictor with the least error on left-out settings."""
    panel = tried.panel
    known = {each.name: (each, _scored(each, panel)) for each in untrained(panel, inputs)}
    others = {each.name: _scored(each, panel) for each in baselines(panel, mean=MACRO)}
    constant = others.pop(CONSTANT)
    errors = {name: total(scored, RMSE) for name, (_, scored) in known.items()}
    name = min(errors, key=lambda each: errors[each])
    predictor, scored = known[name]
    gap, intervals = difference(scored, constant, score=RMSE, members=panel.members)
    return Record(
        predictor=name,
        label=predictor.label,
        score=_score(scored),
        constant=_score(constant),
        difference=gap,
        interval=widest(intervals),
        after_training={each: _score(others[each]) for each in others},
        residuals=scored.held_out.predicted[0] - scored.measured,
        num_settings=len(panel.settings),
        num_groups=len(panel.groups),
    )


def untrained(panel: Panel, inputs: Inputs) -> Iterator[Predictor]:
    """Yields the predictors whose values are known for settings that were never trained."""
    yield from hyperparameter_predictors(
        panel, trainings=inputs.trainings, mean=MACRO, knots=inputs.knots
    )
    if inputs.measured is not None:
        yield from base_predictors(
            panel,
            trainings=inputs.trainings,
            measured=inputs.measured,
            mean=MACRO,
            coefficients=inputs.coefficients,
        )
    yield from stability_predictors(panel, trainings=inputs.trainings, mean=MACRO)


def features_of(name: str, panel: Panel, inputs: Inputs) -> Array:
    """Returns the features of one predictor, as (S, G, F)."""
    return next(each.features for each in untrained(panel, inputs) if each.name == name)


def _scored(predictor: Predictor, panel: Panel) -> Scored:
    loss = panel.group_means("loss", mean=MACRO)
    return Scored(
        held_out=predict(predictor.features, loss, members=panel.members, protocol=SETTING),
        measured=loss,
        loss=loss,
        prefers_low=True,
    )


def _score(scored: Scored) -> Score:
    return Score(error=total(scored, RMSE), regret=total(scored, REGRET))

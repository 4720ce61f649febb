"""Ranks untried settings by their predicted loss, and experiments by their gain for their cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.advice.candidates import is_beyond
from orchestrator.advice.cost import Costs
from orchestrator.advice.gain import knowledge_gradients
from orchestrator.advice.surrogate import LEVELS, Surrogate
from orchestrator.advice.tried import Tried, differing, setting_text
from orchestrator.results.schema import MACRO
from workers.specs.hyperparameters import Hyperparameters

NUM_SHOWN = 5
"""Candidates that a table shows."""
MAX_SNAPSHOTS = 2
"""Shorter snapshots that an experiment measures too. Each takes merges, but no training."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An untried setting with its predicted loss."""

    point: Hyperparameters
    text: str
    loss: float
    """Predicted mean over the groups of the merged macro loss, in nats per image."""
    low: float
    high: float
    """The 95 % interval of `loss`."""
    low_80: float
    high_80: float
    against_best: float
    """`loss` minus the measured loss of the best setting so far."""
    chance: float
    """Probability of less loss than the best setting so far."""
    new_steps: int
    is_beyond: bool
    """Whether one of its values lies outside the values tried."""
    is_apart: bool
    """Whether it is told apart from the first candidate (80 % interval of the difference)."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The training that is expected to help most for its cost, that of its merges included."""

    candidate: Candidate
    snapshots: tuple[Candidate, ...]
    """Shorter candidates that it passes on its way, at no further step."""
    gain: float
    """Expected fall of the least mean loss, in nats per image."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Candidates of one method, best first, beside the best setting that the study has."""

    best: str
    best_point: Hyperparameters
    best_loss: float
    num_candidates: int
    candidates: tuple[Candidate, ...]
    experiment: Experiment | None
    """None if no experiment on the grid is expected to lower the least loss."""


def rank(
    surrogate: Surrogate,
    *,
    points: Sequence[Hyperparameters],
    tried: Tried,
    best: int,
    costs: Costs,
) -> Ranking:
    """Returns the candidates of one method, best first, and the experiment that helps most.

    Args:
        surrogate: The predictions.
        points: The candidates.
        tried: The settings that were tried.
        best: The best of them, as index.
        costs: The costs of a setting.
    """
    best_loss = float(tried.panel.group_means("loss", mean=MACRO).mean(axis=1)[best])
    axes = differing([*tried.points, *points])
    order = np.argsort(surrogate.mean, kind="stable")
    wide, narrow = surrogate.half_width(LEVELS[1]), surrogate.half_width(LEVELS[0])
    chances = surrogate.chance_below(best_loss)

    def candidate(index: int) -> Candidate:
        point, loss = points[index], float(surrogate.mean[index])
        return Candidate(
            point=point,
            text=setting_text(point, axes),
            loss=loss,
            low=loss - float(wide[index]),
            high=loss + float(wide[index]),
            low_80=loss - float(narrow[index]),
            high_80=loss + float(narrow[index]),
            against_best=loss - best_loss,
            chance=float(chances[index]),
            new_steps=costs.new_steps(point),
            is_beyond=is_beyond(point, tried=tried.points),
            is_apart=index != int(order[0]) and surrogate.is_apart(int(order[0]), index),
        )

    experiments = [_experiment(index, points) for index in range(len(points))]
    gains = knowledge_gradients(surrogate, experiments=experiments, best_loss=best_loss)
    totals = [costs.total([points[index] for index in each]) for each in experiments]
    rate = gains / np.maximum(totals, 1)
    first = int(rate.argmax())
    experiment = Experiment(
        candidate=candidate(first),
        snapshots=tuple(candidate(index) for index in experiments[first][1:]),
        gain=float(gains[first]),
    )
    return Ranking(
        best=setting_text(tried.points[best], axes),
        best_point=tried.points[best],
        best_loss=best_loss,
        num_candidates=len(points),
        candidates=tuple(candidate(int(index)) for index in order[:NUM_SHOWN]),
        experiment=experiment if experiment.gain > 0 else None,
    )


def _experiment(index: int, points: Sequence[Hyperparameters]) -> list[int]:
    """Returns a candidate and the longest shorter ones that are snapshots of its training."""
    point = points[index]
    if point.depends_on_total:
        return [index]
    shorter = [
        other
        for other, each in enumerate(points)
        if each.steps < point.steps and replace(each, steps=point.steps) == point
    ]
    shorter.sort(key=lambda other: -points[other].steps)
    return [index, *shorter[:MAX_SNAPSHOTS]]

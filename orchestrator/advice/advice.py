"""Puts together the advice on every method of a study."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from orchestrator.advice.candidates import (
    Values,
    crossed,
    grid_values,
    is_beyond,
    num_different,
)
from orchestrator.advice.gain import knowledge_gradients
from orchestrator.advice.predictors import Inputs, Record, best_record, features_of
from orchestrator.advice.surrogate import LEVELS, Surrogate, fit_surrogate
from orchestrator.advice.tried import (
    AXES,
    Tried,
    differing,
    setting_text,
    tried_settings,
    values_of,
)
from orchestrator.bounds.merge_setting import coefficients_of
from orchestrator.plan.plan import Plan
from orchestrator.results.schema import MACRO
from orchestrator.theory.base_features import Coefficients, MeasuredBases
from orchestrator.theory.features import Trainings
from orchestrator.theory.held_out import MIN_SETTINGS
from orchestrator.theory.panel import Array, Panel, panels
from orchestrator.theory.trainings import training_of
from workers.specs.hyperparameters import Hyperparameters

NUM_SHOWN = 5
"""Candidates that a table shows."""
MAX_SNAPSHOTS = 2
"""Shorter snapshots that an experiment measures too. Each takes merges, but no step."""

_NO_CANDIDATE = (
    "every candidate was tried already, or lies on no line with two tried settings: nothing in the "
    "study says how axes combine there"
)

NewSteps = Callable[[Hyperparameters], int]
"""Returns the optimizer steps, over all tasks, that a setting needs beyond the store's experts."""


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
    """The training that is expected to help most for each step."""

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


@dataclass(frozen=True, kw_only=True)
class MethodAdvice:
    """The advice on one method, or the reason why there is none."""

    method: str
    record: Record | None = None
    """None where too few settings can be compared."""
    ranking: Ranking | None = None
    """None unless the record supports one."""
    missing: str = ""
    """The reason why nothing is ranked, where it is not the record; empty otherwise."""
    left_out: tuple[str, ...] = ()
    """Sentences on settings that are not used."""


def advise(
    results: pa.Table,
    *,
    plan: Plan,
    trainings: Trainings,
    num_train: Mapping[str, int],
    measured: MeasuredBases | None,
    new_steps: NewSteps,
    values: Values | None = None,
    methods: Sequence[str] = (),
) -> list[MethodAdvice]:
    """Returns the advice on every method. Equal arguments give equal advice.

    Args:
        results: The result table.
        plan: The study's plan.
        trainings: How the experts are trained.
        num_train: The number of training images by task.
        measured: The constants of the settings' bases; None if they are not measured.
        new_steps: The cost of a setting.
        values: Candidate values by axis; None for a grid around the tried ones.
        methods: The methods to advise on; all if empty.
    """
    inputs = Inputs(trainings=trainings, measured=measured, coefficients=_coefficients(plan))
    return [
        _advise(
            panel,
            plan=plan,
            inputs=inputs,
            num_train=num_train,
            new_steps=new_steps,
            values=values,
        )
        for panel in panels(results, with_pools=False)
        if not methods or panel.method in methods
    ]


def _advise(
    panel: Panel,
    *,
    plan: Plan,
    inputs: Inputs,
    num_train: Mapping[str, int],
    new_steps: NewSteps,
    values: Values | None,
) -> MethodAdvice:
    tried = tried_settings(panel, plan)
    advice = MethodAdvice(method=panel.method, left_out=tried.left_out)
    if len(tried.points) < MIN_SETTINGS:
        return replace(advice, missing=_too_few(tried))
    record = best_record(tried, inputs)
    advice = replace(advice, record=record)
    if not record.is_supported:
        return advice
    means = tried.panel.group_means("loss", mean=MACRO).mean(axis=1)
    best = int(means.argmin())
    points = crossed(
        grid_values(tried.points) if values is None else values,
        tried=tried.points,
        best=tried.points[best],
    )
    if not points:
        return replace(advice, missing=_NO_CANDIDATE)
    joint, joint_inputs = _with_candidates(tried, points, plan, inputs, num_train=num_train)
    features = features_of(record.predictor, joint, joint_inputs)
    num_tried = len(tried.points)
    told = _told_apart(features[num_tried:], points, best=tried.points[best])
    points = tuple(points[index] for index in told)
    surrogate = fit_surrogate(
        tried.panel,
        features=np.concatenate([features[:num_tried], features[num_tried:][told]]),
        beyond=np.array([is_beyond(point, tried=tried.points) for point in points]),
        residuals=record.residuals,
    )
    ranking = _ranking(surrogate, points=points, tried=tried, best=best, new_steps=new_steps)
    return replace(advice, ranking=ranking)


def _coefficients(plan: Plan) -> Coefficients:
    """Returns the coefficients of the methods that have some before they merge."""
    return {
        (cell.label, cell.group.name): dict(
            zip((expert.task for expert in cell.merge.experts), values, strict=True)
        )
        for cell in plan.cells
        if (values := coefficients_of(cell.merge)) is not None
    }


def _too_few(tried: Tried) -> str:
    num = len(tried.points)
    return (
        f"{f'only {num}' if num > 1 else 'no two'} settings can be compared in the same groups; a "
        f"record of predictions needs {MIN_SETTINGS} that differ in {', '.join(AXES)}"
    )


def _with_candidates(
    tried: Tried,
    points: Sequence[Hyperparameters],
    plan: Plan,
    inputs: Inputs,
    *,
    num_train: Mapping[str, int],
) -> tuple[Panel, Inputs]:
    """Returns the panel with the candidates after the tried settings, without losses."""
    panel, first = tried.panel, tried.panel.settings[0]
    by_name = dict(
        zip((setting.name for setting in plan.settings), plan.setting_experts, strict=True)
    )
    names = [f"candidate {index}" for index in range(len(points))]
    trainings = {
        name: {
            task: training_of(
                replace(spec, hyperparameters=point.canonical()), num_train=num_train[task]
            )
            for task, spec in by_name[first].items()
        }
        for name, point in zip(names, points, strict=True)
    }
    measured = inputs.measured
    if measured is not None:
        measured = {**measured, **dict.fromkeys(names, measured[first])}
    empty = np.full((len(points), *panel.values["loss"].shape[1:]), np.nan)
    joint = replace(
        panel,
        settings=(*panel.settings, *names),
        values={name: np.concatenate([values, empty]) for name, values in panel.values.items()},
    )
    every: Trainings = {**inputs.trainings, **trainings}
    return joint, replace(inputs, trainings=every, measured=measured)


def _told_apart(
    features: Array, points: Sequence[Hyperparameters], *, best: Hyperparameters
) -> list[int]:
    """Returns the candidates that the predictor tells apart, as indices.

    A predictor may know nothing of an axis. Of candidates that are equal to it, the one that has
    most values in common with the best setting stays, and of these the shortest.
    """
    by_features: dict[bytes, list[int]] = {}
    for index, each in enumerate(features):
        by_features.setdefault(np.round(each, 9).tobytes(), []).append(index)
    return sorted(
        min(equal, key=lambda at: (num_different(points[at], best), points[at].steps))
        for equal in by_features.values()
    )


def _ranking(
    surrogate: Surrogate,
    *,
    points: Sequence[Hyperparameters],
    tried: Tried,
    best: int,
    new_steps: NewSteps,
) -> Ranking:
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
            new_steps=new_steps(point),
            is_beyond=is_beyond(point, tried=tried.points),
            is_apart=index != int(order[0]) and surrogate.is_apart(int(order[0]), index),
        )

    experiments = [_experiment(index, points) for index in range(len(points))]
    gains = knowledge_gradients(surrogate, experiments=experiments, best_loss=best_loss)
    steps = np.array([new_steps(point) for point in points])
    rate = gains / np.maximum(steps, 1)
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


def advised_points(advice: Sequence[MethodAdvice]) -> list[Hyperparameters]:
    """Returns the points of the study that tests some advice, each once.

    For every method: the best setting so far, the first candidate, and the most informative
    experiment with its snapshots.
    """
    points: dict[tuple[float, ...], Hyperparameters] = {}
    for ranking in (each.ranking for each in advice):
        if ranking is None:
            continue
        experiment = ranking.experiment
        of_experiment = () if experiment is None else (experiment.candidate, *experiment.snapshots)
        for point in (
            ranking.best_point,
            *(each.point for each in (*ranking.candidates[:1], *of_experiment)),
        ):
            points.setdefault(values_of(point), point)
    return list(points.values())

"""Puts together the advice on every method of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from orchestrator.advice.candidates import (
    Values,
    crossed,
    ends_before,
    grid_values,
    num_different,
)
from orchestrator.advice.cost import Costs
from orchestrator.advice.predictors import Inputs, Record, best_record, features_of
from orchestrator.advice.ranking import Ranking, rank
from orchestrator.advice.surrogate import fit_surrogate
from orchestrator.advice.tried import (
    AXES,
    Tried,
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

_NO_CANDIDATE = (
    "every candidate was tried already, or lies on no line with two tried settings: nothing in the "
    "study says how axes combine there"
)


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
    costs: Costs,
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
        costs: The costs of a setting.
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
            costs=costs,
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
    costs: Costs,
    values: Values | None,
) -> MethodAdvice:
    tried = tried_settings(panel, plan)
    advice = MethodAdvice(method=panel.method, left_out=tried.left_out)
    if len(tried.points) < MIN_SETTINGS:
        return replace(advice, missing=_too_few(tried))
    inputs = replace(inputs, knots=tried.panel.settings)
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
        end_errors=np.array([_end_error(point, tried, record.residuals) for point in points]),
        residuals=record.residuals,
    )
    ranking = rank(surrogate, points=points, tried=tried, best=best, costs=costs)
    return replace(advice, ranking=ranking)


def _end_error(point: Hyperparameters, tried: Tried, residuals: Array) -> float:
    """Returns the largest error at the ends of axes that a point lies beyond; 0 inside."""
    errors = np.abs(residuals.mean(axis=1))
    return max((float(errors[end]) for end in ends_before(point, tried=tried.points)), default=0.0)


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

"""The decisions of a search, and the settings of the candidates that they name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.plan.settings import BasePoint, Setting, origin_of, plan_settings
from orchestrator.study.schema import Study
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import UNKNOWN_TRAINING
from workers.specs.training import TrialSpec

CANDIDATE_AXIS = "candidate"
TASK_MARK = "@"
"""Stands between a hyperparameter and the task that has a value of its own: `lr@mnist`."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision of a search. Its order among all decisions is the order of the search."""

    kind: Literal["propose", "promote", "choose"]
    """`propose` adds candidates, `promote` lets some go on to more steps, `choose` names the
    winner, which is scored on test images."""
    candidates: tuple[int, ...]
    """Numbers of candidates, counted from 0; none if a search has no winner."""
    steps: int | None
    """The steps after which the candidates are merged; None for each candidate's own."""
    values: tuple[Mapping[str, Any], ...] = ()
    """For `propose`: the values of each candidate by hyperparameter, such as `lr` or `lr@mnist`."""
    predicted: tuple[float | None, ...] = ()
    """For `propose` with a prior: the predicted score of each candidate, None if it is not finite;
    empty without a prior."""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that the study's folder keeps."""
        predicted = {"predicted": list(self.predicted)} if self.predicted else {}
        return {
            "kind": self.kind,
            "candidates": list(self.candidates),
            "steps": self.steps,
            "values": [dict(each) for each in self.values],
            **predicted,
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "Decision":
        """Returns the decision whose `to_json` returned the fields.

        Raises:
            KeyError: A field is missing.
        """
        return Decision(
            kind=fields["kind"],
            candidates=tuple(fields["candidates"]),
            steps=fields["steps"],
            values=tuple(fields["values"]),
            predicted=tuple(fields.get("predicted", ())),
        )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One point of the searched space, with the steps that it has been let go on to."""

    number: int
    values: Mapping[str, Any]
    """By hyperparameter, as in `Decision.values`."""
    rungs: tuple[int | None, ...]
    """The steps after which it is merged, ascending."""


def candidates_of(decisions: Iterable[Decision]) -> tuple[Candidate, ...]:
    """Returns all candidates in the order of their numbers."""
    found: dict[int, Candidate] = {}
    for each in decisions:
        if each.kind == "propose":
            for number, values in zip(each.candidates, each.values, strict=True):
                found[number] = Candidate(number=number, values=values, rungs=(each.steps,))
        elif each.kind == "promote":
            for number in each.candidates:
                before = found[number]
                found[number] = replace(before, rungs=(*before.rungs, each.steps))
    return tuple(found.values())


def candidate_name(number: int, *, steps: int | None) -> str:
    """Returns a candidate's value on its axis: `7`, or `7 at 60 steps` under halving."""
    return str(number) if steps is None else f"{number} at {steps} steps"


def base_points(study: Study, *, settings: Iterable[Setting]) -> list[BasePoint]:
    """Returns the points of a study's bases; before a search has candidates, that of its base."""
    points = [setting.base for setting in settings]
    if points or study.search is None:
        return points
    return [origin_of(study.finetune, backbone=study.backbone, tasks=study.task_names).base]


def study_settings(
    study: Study, *, decisions: Sequence[Decision]
) -> tuple[tuple[Setting, ...], tuple[Setting, ...]]:
    """Returns the settings of the result table, and those of the candidates of a search."""
    if study.search is not None:
        winner = winner_setting(study, decisions=decisions)
        return winner, candidate_settings(study, decisions=decisions)
    settings = plan_settings(
        study.finetune,
        backbone=study.backbone,
        tasks=study.task_names,
        sizes=study.groups.sizes,
        seed=study.seed,
        pools=dict.fromkeys(study.groups.pool_kinds, study.groups.pool),
    )
    if study.experts:
        points = dict.fromkeys(study.task_names, UNKNOWN_TRAINING)
        settings = tuple(replace(each, points=points) for each in settings)
    return settings, ()


def _names_going_on(study: Study, *, decisions: Sequence[Decision]) -> frozenset[str]:
    """Returns the names of the candidates that the next decision may let go on to more steps.

    They are those of the last decision: all others were stopped for good when it was taken.
    """
    last, most_steps = (decisions[-1] if decisions else None), study.finetune.defaults.steps
    if last is None or last.kind == "choose" or last.steps in {None, most_steps}:
        return frozenset()
    return frozenset(candidate_name(each, steps=last.steps) for each in last.candidates)


def planned_trials(
    study: Study,
    experts: Iterable[ExpertSpec],
    *,
    decisions: Sequence[Decision],
    tried: Sequence[Mapping[str, ExpertSpec]],
) -> tuple[TrialSpec, ...]:
    """Returns the trials of a study; those of candidates that may go on leave a checkpoint.

    Args:
        study: The study.
        experts: All its experts.
        decisions: The decisions of its search so far; none without a search.
        tried: The expert of every task, for each of `candidate_settings`.
    """
    names, going_on = _names(decisions), _names_going_on(study, decisions=decisions)
    paused = {
        expert.id
        for name, by_task in zip(names, tried, strict=True)
        for expert in (by_task.values() if name in going_on else ())
    }
    most_steps = study.finetune.defaults.steps
    return tuple(
        replace(each, goes_on_to=each.longest.with_steps(most_steps)) if each.id in paused else each
        for each in TrialSpec.sharing_prefixes(experts)
    )


def _names(decisions: Sequence[Decision]) -> list[str]:
    """Returns the name of each of `candidate_settings`."""
    return [
        candidate_name(each.number, steps=steps)
        for each in candidates_of(decisions)
        for steps in each.rungs
    ]


def candidate_settings(study: Study, *, decisions: Sequence[Decision]) -> tuple[Setting, ...]:
    """Returns a setting for every candidate and every number of steps that it is merged at."""
    origin = origin_of(study.finetune, backbone=study.backbone, tasks=study.task_names)
    return tuple(
        _setting(origin, candidate=each, steps=steps, name=candidate_name(each.number, steps=steps))
        for each in candidates_of(decisions)
        for steps in each.rungs
    )


def winner_setting(study: Study, *, decisions: Sequence[Decision]) -> tuple[Setting, ...]:
    """Returns the setting of the candidate that was chosen last; empty before any was."""
    chosen = next((each for each in reversed(decisions) if each.kind == "choose"), None)
    if chosen is None or not chosen.candidates:
        return ()
    origin = origin_of(study.finetune, backbone=study.backbone, tasks=study.task_names)
    (number,) = chosen.candidates
    candidate = candidates_of(decisions)[number]
    return (_setting(origin, candidate=candidate, steps=chosen.steps, name=str(number)),)


def _setting(origin: Setting, *, candidate: Candidate, steps: int | None, name: str) -> Setting:
    """Returns a setting: shared values for all tasks, then each task's own, then the steps."""
    shared = {key: each for key, each in candidate.values.items() if TASK_MARK not in key}
    own: dict[str, dict[str, Any]] = {task: {} for task in origin.points}
    for key, each in candidate.values.items():
        hyperparameter, mark, task = key.partition(TASK_MARK)
        if mark and task in own:
            own[task][hyperparameter] = each
    rung = {} if steps is None else {"steps": steps}
    points = {
        task: replace(point, **{**shared, **own[task], **rung})
        for task, point in origin.points.items()
    }
    return replace(origin, axis=CANDIDATE_AXIS, value=name, points=points)

"""Predictors from the snapshots that come before a setting's experts in their trainings.

A study with several numbers of steps has merged its experts early on: the loss of that merge costs
nothing new, and where task vectors are measured, so do their lengths there. A number here is known
before the setting itself is trained. Settings at the first snapshot have none before them, and the
growth of the lengths needs two. Sources: arXiv:2606.19549 forecasts from the first percents of
training; the exponent is our measure of how a task vector grows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.plan.plan import Plan
from orchestrator.results.schema import MACRO
from orchestrator.theory.evidence.vector_features import TaskVectors, lengths, ln_length
from orchestrator.theory.features import MEASURED, Predictor
from orchestrator.theory.panel import Array, Panel

NO_SNAPSHOTS = "no setting's experts are later snapshots of another setting's"
NO_VECTORS = "lengths of task vectors are not measured (`mergesweep measure NAME` does)"
_LOSS = "first snapshot, merged loss"
_LOSS_AND_STEPS = "first snapshot, merged loss and steps"
_LENGTH = "first snapshot, length of task vectors"
_GROWTH = "first two snapshots, growth of task vectors"
_NEEDS_MERGES = "merges at the first snapshot"
_NEEDS_WEIGHTS = "the experts' weights at the first snapshot"
_NEEDS_TWO = "the experts' weights at the first two snapshots"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The experts of all tasks after some steps of their trainings."""

    steps: int
    names: tuple[str, ...]
    """The settings that these experts stand at; they are one point with several names."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """The place of a setting in its trainings."""

    steps: int
    earlier: tuple[Snapshot, ...]
    """The snapshots with fewer steps, ascending; empty at the first."""


Places = Mapping[str, Before]
"""The place of each setting by its name; settings whose experts differ in steps have none."""
Losses = Mapping[tuple[str, str, str], float]
"""The macro loss of each merge, by the names of method, setting and group."""


def snapshot_places(plan: Plan) -> Places:
    """Returns the place of each setting in the trials that its experts are snapshots of."""
    trial_of = {expert.id: trial.id for trial in plan.trials for expert in trial.outputs}
    places = {}
    by_trials: dict[tuple[str, ...], dict[int, list[str]]] = {}
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        point = setting.shared_point
        if point is None:
            continue
        trials = tuple(trial_of[experts[task].id] for task in sorted(experts))
        by_trials.setdefault(trials, {}).setdefault(point.steps, []).append(setting.name)
        places[setting.name] = trials, point.steps
    return {
        name: Before(
            steps=own,
            earlier=tuple(
                Snapshot(steps=steps, names=tuple(names))
                for steps, names in sorted(by_trials[trials].items())
                if steps < own
            ),
        )
        for name, (trials, own) in places.items()
    }


def losses_of(panels: Sequence[Panel]) -> Losses:
    """Returns the macro loss of every merge of some panels that is finite."""
    return {
        (panel.method, setting, group): float(loss)
        for panel in panels
        for setting, of_setting in zip(
            panel.settings, panel.group_means("loss", mean=MACRO), strict=True
        )
        for group, loss in zip(panel.groups, of_setting, strict=True)
        if np.isfinite(loss)
    }


def snapshot_predictors(
    panel: Panel, *, places: Places, losses: Losses, vectors: TaskVectors
) -> Iterator[Predictor]:
    """Yields the predictors that some settings have; the others' features are NaN.

    Args:
        panel: The merges of one method.
        places: The place of each setting in its trainings.
        losses: Those of the study, also of settings outside the panel.
        vectors: The inner products of the task vectors; empty if they are not measured.
    """

    def loss(before: Before, group: str) -> float:
        keys = ((panel.method, name, group) for name in before.earlier[0].names)
        return next((losses[key] for key in keys if key in losses), np.nan)

    def gram(snapshot: Snapshot, group: str) -> Array | None:
        keys = ((name, group) for name in snapshot.names)
        return next((vectors[key] for key in keys if key in vectors), None)

    def length(before: Before, group: str) -> float:
        found = gram(before.earlier[0], group)
        return np.nan if found is None else ln_length(found)

    def growth(before: Before, group: str) -> float:
        first, second = (gram(snapshot, group) for snapshot in before.earlier[:2])
        if first is None or second is None:
            return np.nan
        steps = [each.steps for each in before.earlier[:2]]
        return growth_exponent(lengths(first), lengths(second), steps=(steps[0], steps[1]))

    of_loss = _values(panel, places, loss, num_snapshots=1)
    found = Predictor(name=_LOSS, label=MEASURED, needs=_NEEDS_MERGES, features=of_loss)
    yield from _known(found)
    steps = _values(panel, places, lambda before, _: float(np.log(before.steps)), num_snapshots=1)
    both = np.concatenate([of_loss, steps], axis=2)
    yield from _known(replace(found, name=_LOSS_AND_STEPS, features=both))
    for name, needs, value, num in (
        (_LENGTH, _NEEDS_WEIGHTS, length, 1),
        (_GROWTH, _NEEDS_TWO, growth, 2),
    ):
        features = _values(panel, places, value, num_snapshots=num)
        yield from _known(Predictor(name=name, label=MEASURED, needs=needs, features=features))


def growth_exponent(first: Array, second: Array, *, steps: tuple[int, int]) -> float:
    """Returns the mean over tasks of the slope of ln length against ln steps; NaN for a length 0.

    A walk of independent steps grows with an exponent of 1/2, a straight path with 1.

    Args:
        first: (N,): the lengths of the tasks' vectors at the first snapshot.
        second: (N,): those at the second.
        steps: The steps of both.
    """
    if not ((first > 0).all() and (second > 0).all()):
        return float("nan")
    return float(np.log(second / first).mean() / np.log(steps[1] / steps[0]))


def _values(
    panel: Panel,
    places: Places,
    value: Callable[[Before, str], float],
    *,
    num_snapshots: int,
) -> Array:
    """Returns a number of every merge with so many earlier snapshots, (S, G, 1); else NaN."""
    values = np.full((len(panel.settings), len(panel.groups), 1), np.nan)
    for at, name in enumerate(panel.settings):
        before = places.get(name)
        if before is not None and len(before.earlier) >= num_snapshots:
            values[at, :, 0] = [value(before, group) for group in panel.groups]
    return values


def _known(predictor: Predictor) -> Iterator[Predictor]:
    if len(predictor.known_settings):
        yield predictor

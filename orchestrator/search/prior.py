"""Draws candidates by the theory's prediction of their merges, before anything is trained."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from orchestrator.bounds.merge_bounds import bounds_of
from orchestrator.bounds.merge_setting import coefficients_of, gives_weights, merge_setting_of
from orchestrator.bounds.study_measurements import constants_specs
from orchestrator.plan.candidates import Candidate, Decision
from orchestrator.plan.cells import Cell
from orchestrator.plan.plan import Plan
from orchestrator.record.measurements import read_measurements
from orchestrator.record.task_constants import MeasuredTasks, read_task_constants
from orchestrator.search.searchers import SearcherError
from orchestrator.search.space import drawn, search_of
from orchestrator.study.schema import Study
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.node_cache import cache_root
from workers.specs.merge import MergeSpec

Form = Literal["proved", "stated"]
MakePlan = Callable[[Sequence[Decision]], Plan]
"""Returns the plan of a study with some decisions."""


class MissingConstantsError(SearcherError):
    """The store lacks constants that the prior of a search needs."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(f"the store has no constants with curvature of {', '.join(tasks)}")
        self.tasks = tuple(tasks)


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The theory's predictions of a search's merges."""

    make_plan: MakePlan
    measured: Callable[[Plan], MeasuredTasks]
    """Returns the constants of a plan's tasks; raises `MissingConstantsError`."""

    def drawn(
        self, study: Study, *, count: int, candidates: Sequence[Candidate]
    ) -> tuple[list[dict[str, Any]], tuple[float | None, ...]]:
        """Returns the values of the next candidates, and their predicted scores.

        For each candidate `pool` points are drawn, of which the first is that of a search without
        a prior. The one with the least score stays, of equals the first; a point that is a
        candidate already stands back. A candidate therefore depends on the seed, the constants and
        the candidates before it, and not on batches or the budget.

        Args:
            study: A study whose search has a prior.
            count: The number of candidates.
            candidates: All candidates so far.

        Returns:
            The values, and scores that are None where they are not finite.

        Raises:
            MissingConstantsError: A task has no constants.
        """
        search, begin = search_of(study), len(candidates)
        assert search.prior is not None
        pool = range(search.prior.pool)
        points = [
            [drawn(study, number=begin + each, again=again) for again in pool]
            for each in range(count)
        ]
        plan = self.make_plan([_proposal(study, [point for each in points for point in each])])
        scores = predicted_scores(plan, measured=self.measured(plan), form=search.prior.form)
        taken = [dict(each.values) for each in candidates]
        predicted: list[float | None] = []
        for place, of_one in enumerate(points):
            own = scores[place * len(pool) : (place + 1) * len(pool)]
            best = min(pool, key=lambda each: (of_one[each] in taken, own[each], each))
            taken.append(of_one[best])
            predicted.append(own[best] if math.isfinite(own[best]) else None)
        return taken[begin:], tuple(predicted)


def prior_of(study: Study, *, artifacts: Artifacts, make_plan: MakePlan) -> Prior | None:
    """Returns the prior of a study's search, with the store's constants; None without one."""
    if study.search is None or study.search.prior is None:
        return None
    return Prior(make_plan=make_plan, measured=partial(stored_constants, artifacts))


def any_candidate(study: Study) -> Decision:
    """Returns a proposal of one candidate, whose base and images are those of all candidates."""
    return _proposal(study, [drawn(study, number=0)])


def predicted_scores(plan: Plan, *, measured: MeasuredTasks, form: Form) -> list[float]:
    """Returns the predicted score of each candidate: the mean over the study's groups.

    It is the test loss of the merge after the whole training, less its floor, under the
    coefficients of the first method whose coefficients are known before; those of the average if
    there is none. Outside the range of the theory it ranks candidates and is no loss. A score that
    is not finite counts as infinite.

    Args:
        plan: A plan with candidates.
        measured: The constants of its base on its tasks.
        form: The form of the test loss.
    """
    cells = _cells_of_one_method(plan)
    scores: dict[str, list[float]] = {}
    for cell in cells:
        setting = merge_setting_of(cell.merge, plan=plan)
        assert setting is not None, "its coefficients are known"
        bounds = bounds_of(cell.merge, setting, measured=measured)
        excess = bounds.excess if form == "proved" else bounds.stated_excess
        scores.setdefault(cell.setting.value, []).append(excess.value)
    means = (statistics.fmean(each) for each in scores.values())
    return [each if math.isfinite(each) else math.inf for each in means]


def _cells_of_one_method(plan: Plan) -> list[Cell]:
    """Returns the merges of candidates by the first method with known coefficients."""
    by_label: dict[str, list[Cell]] = {}
    for cell in plan.candidate_cells:
        by_label.setdefault(cell.label, []).append(cell)
    for cells in by_label.values():
        coefficients = coefficients_of(cells[0].merge)
        if coefficients is not None and gives_weights(coefficients):
            return cells
    first = next(iter(by_label.values()))
    return [replace(cell, merge=_averaged(cell.merge)) for cell in first]


def _averaged(merge: MergeSpec) -> MergeSpec:
    return replace(merge, method="average", params={}, tuning=None, own_method=None)


def _proposal(study: Study, values: Sequence[Mapping[str, Any]]) -> Decision:
    return Decision(
        kind="propose",
        candidates=tuple(range(len(values))),
        steps=search_of(study).rungs(study.finetune.defaults.steps)[-1],
        values=tuple(values),
    )


def stored_constants(artifacts: Artifacts, plan: Plan) -> MeasuredTasks:
    """Returns the constants of a plan's base on its tasks, with curvature, from the store.

    Raises:
        MissingConstantsError: A task has none.
        StoreError: The store failed.
        CorruptArtifactError: A file differs from its manifest.
    """
    specs = [
        spec
        for expert in {each.task: each for each in plan.experts.values()}.values()
        for spec in constants_specs(plan, expert)
        if spec.curvature is not None
    ]
    found = read_measurements(artifacts, specs)
    preferred_last = (each for each in reversed(specs) if each.id in found)
    manifests = {spec.sample.task: found[spec.id] for spec in preferred_last}
    if left := {each.sample.task for each in specs} - manifests.keys():
        raise MissingConstantsError(sorted(left))
    return read_task_constants(artifacts, manifests, cache_root=cache_root())

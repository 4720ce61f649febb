"""The scores of candidates, from committed merges on validation images."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.metrics import macro_mean, union_mean
from orchestrator.plan.candidates import candidate_name, candidates_of
from orchestrator.plan.cells import Cell
from orchestrator.record.committed import Committed
from orchestrator.search.space import search_of
from orchestrator.study.search import Objective
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import MergeMetrics

At = tuple[int, int | None]
"""A candidate's number, and the steps after which it is merged; None for its own."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a candidate after some steps: that of its best method."""

    objective: float
    """In the objective's unit; NaN if an expert or every merge of the candidate diverged."""
    method: str | None
    """The label of the method; None if the objective is NaN."""
    badness: float
    """Smaller is better; infinite if the objective is NaN."""

    @property
    def is_finite(self) -> bool:
        """Returns whether the candidate can go on or win."""
        return math.isfinite(self.badness)


DIVERGED = Score(objective=math.nan, method=None, badness=math.inf)


def scores_of(committed: Committed) -> dict[At, Score]:
    """Returns the scores of all candidates whose experts and merges are all committed."""
    plan = committed.plan
    objective = search_of(plan.study).objective
    cells: dict[str, dict[str, list[Cell]]] = {}
    for cell in plan.candidate_cells:
        cells.setdefault(cell.setting.value, {}).setdefault(cell.label, []).append(cell)
    experts = {
        setting.value: by_task
        for setting, by_task in zip(plan.candidate_settings, plan.candidate_experts, strict=True)
    }
    found: dict[At, Score] = {}
    for candidate in candidates_of(plan.decisions):
        for steps in candidate.rungs:
            name = candidate_name(candidate.number, steps=steps)
            trained = [committed.experts.get(each.id) for each in experts[name].values()]
            score = _score(cells[name], trained=trained, committed=committed, objective=objective)
            if score is not None:
                found[candidate.number, steps] = score
    return found


def _score(
    cells: Mapping[str, Sequence[Cell]],
    *,
    trained: Sequence[Manifest | None],
    committed: Committed,
    objective: Objective,
) -> Score | None:
    """Returns the score of a candidate after some steps; None if something is not committed."""
    if any(each is None for each in trained):
        return None
    if any(each is not None and each.outcome == "diverged" for each in trained):
        return DIVERGED
    merged = {
        label: [(cell, committed.merges.get(cell.merge.id)) for cell in of_method]
        for label, of_method in cells.items()
    }
    if any(each is None for pairs in merged.values() for _, each in pairs):
        return None
    best = DIVERGED
    for label, pairs in merged.items():
        values = [_value(cell, each, objective=objective) for cell, each in pairs if each]
        value = _over_groups(values, objective=objective)
        badness = -value if objective.metric == "accuracy" else value
        if math.isfinite(badness) and badness < best.badness:
            best = Score(objective=value, method=label, badness=badness)
    return best


def _value(cell: Cell, manifest: Manifest, *, objective: Objective) -> float:
    """Returns the objective of one merge; NaN if it is not finite."""
    tasks = MergeMetrics.from_json(manifest.metrics).tasks
    if not tasks:
        return math.nan
    mean = macro_mean if objective.scope == "macro" else union_mean
    found = mean([tasks[task] for task in cell.group.tasks])
    return found.loss if objective.metric == "loss" else found.accuracy


def _over_groups(values: Sequence[float], *, objective: Objective) -> float:
    """Returns the mean over the groups, or a standard error on the worse side of it."""
    if not all(map(math.isfinite, values)):
        return math.nan
    mean = math.fsum(values) / len(values)
    if objective.over == "mean" or len(values) == 1:
        return mean
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean + error if objective.metric == "loss" else mean - error

"""The table of a search: every candidate at every number of steps that it was scored at."""

from typing import Any, get_type_hints

import pyarrow as pa

from orchestrator.plan.candidates import TASK_MARK, Candidate, candidate_name, candidates_of
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.search.scores import At, Score, scores_of
from orchestrator.search.space import dimensions, search_of
from workers.artifacts.metrics import steps_taken
from workers.specs.hyperparameters import Hyperparameters

_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_HINTS = get_type_hints(Hyperparameters)
FIXED = (
    pa.field("candidate", pa.int64()),  # counted from 0, in the order of the proposals
    pa.field("batch", pa.int64()),  # the batch that it was proposed in, counted from 0
    pa.field("rung", pa.int64()),  # counted from 0; always 0 without halving
    pa.field("steps", pa.int64()),  # optimizer steps of its experts; null where tasks differ
    pa.field("objective", pa.float64()),  # on validation images; null if it diverged
    pa.field("method", pa.string()),  # the method with the best objective
    pa.field(
        "outcome", pa.string()
    ),  # "won", "finished", "stopped", "goes on", "waits", "diverged"
    pa.field("trained_steps", pa.int64()),  # of all trials, once this rung was scored
)
"""The columns before those of the searched hyperparameters."""
PRIOR = pa.field("prior", pa.float64())
"""The predicted score of a candidate, before any training: it ranks candidates and is no loss. Null
where none was predicted. Only searches with a prior have it."""


def candidates_table(committed: Committed) -> pa.Table:
    """Returns one row per candidate and rung, in the order of the decisions.

    The columns are `FIXED`, `PRIOR` if the search has one, then one for each dimension of the
    searched space: `lr`, or `lr@<task>` for a hyperparameter that each task has for itself.
    """
    plan = committed.plan
    scores, candidates = scores_of(committed), candidates_of(plan.decisions)
    predicted = predicted_of(plan)
    meter = _StepMeter(committed)
    rows: list[dict[str, Any]] = []
    batch_of: dict[int, int] = {}
    for decision in plan.decisions:
        if decision.kind == "choose":
            continue
        if decision.kind == "propose":
            batch_of |= dict.fromkeys(decision.candidates, max(batch_of.values(), default=-1) + 1)
        total = meter.add([(number, decision.steps) for number in decision.candidates])
        for number in decision.candidates:
            at = (number, decision.steps)
            if at in scores:
                row = _row(candidates[number], at=at, score=scores[at], plan=plan)
                more = {"batch": batch_of[number], "trained_steps": total}
                rows.append({**row, **more, PRIOR.name: predicted.get(number)})
    return pa.Table.from_pylist(rows, schema=_schema(plan))


def predicted_of(plan: Plan) -> dict[int, float]:
    """Returns the finite predicted scores by candidate; empty without a prior."""
    return {
        number: score
        for decision in plan.decisions
        if decision.predicted
        for number, score in zip(decision.candidates, decision.predicted, strict=True)
        if score is not None
    }


def _schema(plan: Plan) -> pa.Schema:
    of_space = [
        pa.field(name, _TYPES.get(_HINTS[name.partition(TASK_MARK)[0]], pa.string()))
        for name in dimensions(plan.study)
    ]
    fixed = [each for each in FIXED if each.name not in {field.name for field in of_space}]
    if search_of(plan.study).prior is not None:
        fixed.append(PRIOR)
    return pa.schema([*fixed, *of_space])


def _row(candidate: Candidate, *, at: At, score: Score, plan: Plan) -> dict[str, Any]:
    rung = candidate.rungs.index(at[1])
    default = plan.study.finetune.defaults.steps
    own = any(name.startswith(f"steps{TASK_MARK}") for name in candidate.values)
    steps = at[1] or (None if own else candidate.values.get("steps", default))
    return {
        "candidate": candidate.number,
        "rung": rung,
        "objective": score.objective if score.is_finite else None,
        "method": score.method,
        "outcome": _outcome(candidate, at=at, score=score, plan=plan),
        **candidate.values,
        "steps": steps,
    }


def _outcome(candidate: Candidate, *, at: At, score: Score, plan: Plan) -> str:
    """Returns what became of a candidate after it was scored at a rung."""
    last = plan.decisions[-1]
    if last.kind == "choose" and (last.candidates, last.steps) == ((at[0],), at[1]):
        return "won"
    if not score.is_finite:
        return "diverged"
    if candidate.rungs[-1] != at[1]:
        return "goes on"
    if last.kind != "choose" and last.steps == at[1] and at[0] in last.candidates:
        return "waits"
    is_whole = at[1] is None or at[1] == plan.study.finetune.defaults.steps
    return "finished" if is_whole else "stopped"


class _StepMeter:
    """Counts the optimizer steps of all trials, each once, as candidates reach their rungs."""

    def __init__(self, committed: Committed) -> None:
        plan = committed.plan
        self._committed = committed
        self._trial_of = {out.id: trial.id for trial in plan.trials for out in trial.outputs}
        settings = zip(plan.candidate_settings, plan.candidate_experts, strict=True)
        self._experts = {setting.value: list(each.values()) for setting, each in settings}
        self._taken: dict[str, int] = {}

    def add(self, scored: list[At]) -> int:
        """Adds the experts of candidates at a rung; returns the steps of all so far."""
        for number, steps in scored:
            for expert in self._experts[candidate_name(number, steps=steps)]:
                if (manifest := self._committed.experts.get(expert.id)) is not None:
                    trial_id = self._trial_of[expert.id]
                    before = self._taken.get(trial_id, 0)
                    self._taken[trial_id] = max(before, steps_taken(manifest.metrics))
        return sum(self._taken.values())

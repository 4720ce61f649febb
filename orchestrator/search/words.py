"""Says in words how far a search has come, for the terminal and the report."""

from collections.abc import Mapping
from typing import Any

from eval.counts import counted
from orchestrator.costs.usage import limit_texts
from orchestrator.plan.candidates import candidates_of
from orchestrator.plan.plan import Plan
from orchestrator.plan.settings import value_text
from orchestrator.record.committed import Committed
from orchestrator.search.decide import incumbent
from orchestrator.search.scores import scores_of
from orchestrator.search.space import search_of
from orchestrator.search.spending import spent_so_far


def has_ended(plan: Plan) -> bool:
    """Returns whether a study has no search, or one whose winner is chosen."""
    if plan.study.search is None:
        return True
    last = plan.decisions[-1]
    return last.kind == "choose" and bool(last.candidates)


def search_lines(committed: Committed) -> list[str]:
    """Returns a line on the candidates of a search so far, and one on the best of them."""
    plan, scores = committed.plan, scores_of(committed)
    objective = search_of(plan.study).objective
    candidates = candidates_of(plan.decisions)
    spent = spent_so_far(committed)
    used = [
        counted(len(candidates), "candidate"),
        counted(spent.num_steps, "optimizer step"),
        *spent.usage(plan.study).texts(search_of(plan.study).budget.hours),
    ]
    lines = [f"search: {', '.join(used)}"]
    best_at = incumbent(scores)
    if best_at is None:
        is_over = plan.decisions[-1].kind == "choose"
        return [*lines, "no candidate has a finite validation score"] if is_over else lines
    number, steps = best_at
    best, after = scores[best_at], "" if steps is None else f" after {counted(steps, 'step')}"
    kind = "best" if has_ended(plan) else "best so far"
    lines.append(
        f"{kind}: candidate {number}{after}: {values_text(candidates[number].values)}; "
        f"{best.method}, {objective.scope} validation {objective.metric} {best.objective:.4f}"
    )
    return lines


def values_text(values: Mapping[str, Any]) -> str:
    """Returns the values of a candidate as text: `batch_size=32, lr=0.001`."""
    return ", ".join(f"{name}={value_text(values[name])}" for name in sorted(values))


def search_plan_lines(plan: Plan) -> list[str]:
    """Returns a line on what a search has planned so far and how it goes on; none without one."""
    if plan.study.search is None:
        return []
    search, most_steps = search_of(plan.study), plan.study.finetune.defaults.steps
    budget = search.budget
    limits = {"candidate": budget.candidates, "optimizer step": budget.steps}
    ends = [counted(each, name) for name, each in limits.items() if each is not None]
    until = " or ".join([*ends, *limit_texts(budget.hours).values()])
    first = f"search: {counted(len(candidates_of(plan.decisions)), 'candidate')} so far"
    batch = f"batches of {search.batch_size(most_steps)}"
    if search.halving is None:
        return [f"{first}, {batch}, until {until}"]
    rungs = ", ".join(map(str, search.rungs(most_steps)))
    part = f"the best 1/{search.halving.factor} of each go on after {rungs} steps"
    return [f"{first}, {batch}, {part}, until {until}"]

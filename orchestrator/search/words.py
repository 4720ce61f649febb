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
from orchestrator.search.scores import At, Score, scores_of
from orchestrator.search.space import search_of
from orchestrator.search.spending import spent_so_far
from orchestrator.search.table import predicted_of

_MIN_RANKED = 3
"""The fewest candidates whose ranks are compared."""


def has_ended(plan: Plan) -> bool:
    """Returns whether a study has no search, or one whose winner is chosen."""
    if plan.study.search is None:
        return True
    if not plan.decisions:
        return False
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
    lines += _prior_lines(plan, scores=scores)
    best_at = incumbent(scores)
    if best_at is None:
        is_over = bool(plan.decisions) and plan.decisions[-1].kind == "choose"
        return [*lines, "no candidate has a finite validation score"] if is_over else lines
    number, steps = best_at
    best, after = scores[best_at], "" if steps is None else f" after {counted(steps, 'step')}"
    kind = "best" if has_ended(plan) else "best so far"
    lines.append(
        f"{kind}: candidate {number}{after}: {values_text(candidates[number].values)}; "
        f"{best.method}, {objective.scope} validation {objective.metric} {best.objective:.4f}"
    )
    return lines


def _prior_lines(plan: Plan, *, scores: Mapping[At, Score]) -> list[str]:
    """Returns a line on the prior's predictions beside the scores at the first rung."""
    prior = search_of(plan.study).prior
    if prior is None:
        return []
    first = search_of(plan.study).rungs(plan.study.finetune.defaults.steps)[0]
    pairs = [
        (predicted, scores[number, first].badness)
        for number, predicted in predicted_of(plan).items()
        if (number, first) in scores and scores[number, first].is_finite
    ]
    start = f"prior: {prior.form} form of the test loss, a score and not a loss"
    if len(pairs) < _MIN_RANKED:
        return [start]
    # Imported here because SciPy takes half a second to load.
    from scipy.stats import spearmanr  # noqa: PLC0415

    columns = list(zip(*pairs, strict=True))
    if any(len(set(column)) == 1 for column in columns):
        return [f"{start}; it is the same for all candidates, or their objective is"]
    correlation = float(spearmanr(*columns).statistic)
    rung = "" if first is None else f" after {counted(first, 'step')}"
    over = f"over {len(pairs)} candidates{rung}"
    return [
        f"{start}; rank correlation with the objective {over} (1: best first): {correlation:.2f}"
    ]


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

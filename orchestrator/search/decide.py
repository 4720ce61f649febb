"""Decides how a search goes on: which candidates are proposed, promoted and chosen.

Every decision is a function of the study, the decisions before it and committed scores. It never
depends on times or on the order of commits, so a search that was killed goes on as if it had not
been.
"""

from collections.abc import Mapping, Sequence

from orchestrator.plan.candidates import Candidate, Decision, candidates_of
from orchestrator.record.committed import Committed
from orchestrator.search.scores import At, Score, scores_of, trained_steps
from orchestrator.search.searchers import grid, proposed
from orchestrator.search.space import search_of
from orchestrator.study.schema import Study


def first_decision(study: Study) -> Decision:
    """Returns the proposal that a search begins with."""
    proposal = _propose(study, candidates=(), scores={}, num_steps=0)
    assert proposal is not None, "the checks refuse a budget that is too small for one candidate"
    return proposal


def is_over(committed: Committed) -> bool:
    """Returns whether a search has a winner, and its budget no room for another candidate."""
    plan = committed.plan
    return plan.decisions[-1].kind == "choose" and not _num_next(
        plan.study,
        num_candidates=len(candidates_of(plan.decisions)),
        num_steps=trained_steps(committed),
    )


def next_decision(committed: Committed) -> Decision | None:
    """Returns the next decision of a search.

    None if the search has ended, or if an expert or merge of the last decision is not committed: it
    failed, is left out, or still runs.

    Raises:
        SearcherError: The process that proposes candidates has failed.
    """
    plan = committed.plan
    decisions, last = plan.decisions, plan.decisions[-1]
    search, scores = search_of(plan.study), scores_of(committed)
    if last.kind != "choose":
        scored = [(number, last.steps) for number in last.candidates]
        if any(at not in scores for at in scored):
            return None
        rungs = search.rungs(plan.study.finetune.defaults.steps)
        finite = [at for at in scored if scores[at].is_finite]
        if last.steps != rungs[-1] and finite and search.halving is not None:
            num = max(1, len(scored) // search.halving.factor)
            best = sorted(finite, key=lambda at: (scores[at].badness, at[0]))[:num]
            steps = rungs[rungs.index(last.steps) + 1]
            numbers = tuple(sorted(number for number, _ in best))
            return Decision(kind="promote", candidates=numbers, steps=steps)
    proposal = _propose(
        plan.study,
        candidates=candidates_of(decisions),
        scores=scores,
        num_steps=trained_steps(committed),
    )
    if proposal is not None or last.kind == "choose":
        return proposal
    best_at = incumbent(scores)
    return Decision(
        kind="choose",
        candidates=() if best_at is None else (best_at[0],),
        steps=None if best_at is None else best_at[1],
    )


def incumbent(scores: Mapping[At, Score]) -> At | None:
    """Returns the best candidate with its steps, of equals the first; None if all diverged.

    Every rung counts: after fewer steps, experts may merge better.
    """
    finite = {at: each for at, each in scores.items() if each.is_finite}
    return min(finite, key=lambda at: (finite[at].badness, at[0], at[1] or 0), default=None)


def _propose(
    study: Study,
    *,
    candidates: Sequence[Candidate],
    scores: Mapping[At, Score],
    num_steps: int,
) -> Decision | None:
    """Returns the next batch; None if the budget has no room for a candidate.

    Args:
        study: The study.
        candidates: All candidates so far.
        scores: Their scores.
        num_steps: The optimizer steps that they have taken.
    """
    begin = len(candidates)
    num = _num_next(study, num_candidates=begin, num_steps=num_steps)
    if not num:
        return None
    values = proposed(study, count=num, candidates=candidates, scores=scores)
    return Decision(
        kind="propose",
        candidates=tuple(range(begin, begin + len(values))),
        steps=search_of(study).rungs(study.finetune.defaults.steps)[0],
        values=tuple(values),
    )


def _num_next(study: Study, *, num_candidates: int, num_steps: int) -> int:
    """Returns the candidates of the next batch: as many as surely fit the budget."""
    search = search_of(study)
    num = search.batch_size(study.finetune.defaults.steps)
    if search.algorithm == "grid":
        num = min(num, len(grid(study)) - num_candidates)
    if search.budget.candidates is not None:
        num = min(num, search.budget.candidates - num_candidates)
    if search.budget.steps is not None:
        while num > 0 and num_steps + _cost(study, num=num) > search.budget.steps:
            num -= 1
    return max(0, num)


def _cost(study: Study, *, num: int) -> int:
    """Returns the most optimizer steps that a batch of candidates takes, halving included."""
    search, num_tasks = search_of(study), len(study.task_names)
    most_steps = study.finetune.defaults.steps
    if search.halving is None:
        drawn = search.space["steps"].extremes if "steps" in search.space else [most_steps]
        return num_tasks * num * int(max(drawn))
    total, before = 0, 0
    for steps in search.rungs(most_steps):
        assert steps is not None, "halving names the steps of every rung"
        total += num_tasks * num * (steps - before)
        before, num = steps, max(1, num // search.halving.factor)
    return total

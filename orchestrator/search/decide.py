"""Decides how a search goes on: which candidates are proposed, promoted and chosen.

Every decision is a function of the study, the decisions before it, committed scores and, under a
budget of hours, the seconds in committed manifests. It never depends on the clock or on the order
of commits, so a search that was killed goes on as if it had not been.
"""

from collections.abc import Mapping, Sequence

from orchestrator.plan.candidates import Candidate, Decision, candidates_of
from orchestrator.record.committed import Committed
from orchestrator.search.prior import Prior
from orchestrator.search.scores import At, Score, scores_of
from orchestrator.search.searchers import draws_at_random, grid, proposed
from orchestrator.search.space import search_of
from orchestrator.search.spending import Spent, num_with_room, spent_so_far
from orchestrator.study.schema import Study


def first_decision(study: Study, *, prior: Prior | None = None) -> Decision:
    """Returns the proposal that a search begins with.

    Raises:
        MissingConstantsError: The prior lacks constants.
    """
    proposal = _propose(study, candidates=(), scores={}, spent=Spent(), prior=prior)
    assert proposal is not None, "the checks refuse a budget that is too small for one candidate"
    return proposal


def is_over(committed: Committed) -> bool:
    """Returns whether a search has a winner, and its budget no room for another candidate."""
    plan = committed.plan
    if not plan.decisions or plan.decisions[-1].kind != "choose":
        return False
    return not _num_next(
        plan.study,
        num_candidates=len(candidates_of(plan.decisions)),
        spent=spent_so_far(committed),
    )


def next_decision(committed: Committed, *, prior: Prior | None = None) -> Decision | None:
    """Returns the next decision of a search that has its first.

    None if the search has ended, or if an expert or merge of the last decision is not committed: it
    failed, is left out, or still runs.

    Args:
        committed: The study.
        prior: Predicts the merges of random candidates; None without a prior.

    Raises:
        SearcherError: The process that proposes candidates has failed, or the prior lacks
            constants.
    """
    plan = committed.plan
    decisions, last = plan.decisions, plan.decisions[-1]
    search, scores = search_of(plan.study), scores_of(committed)
    spent = spent_so_far(committed)
    if last.kind != "choose":
        scored = [(number, last.steps) for number in last.candidates]
        if any(at not in scores for at in scored):
            return None
        rungs = search.rungs(plan.study.finetune.defaults.steps)
        finite = [at for at in scored if scores[at].is_finite]
        if last.steps != rungs[-1] and finite and search.halving is not None:
            num, rung = max(1, len(scored) // search.halving.factor), rungs.index(last.steps) + 1
            num = num_with_room(plan.study, spent=spent, most=num, rung=rung)
            best = sorted(finite, key=lambda at: (scores[at].badness, at[0]))[:num]
            numbers = tuple(sorted(number for number, _ in best))
            if numbers:
                return Decision(kind="promote", candidates=numbers, steps=rungs[rung])
    proposal = _propose(
        plan.study,
        candidates=candidates_of(decisions),
        scores=scores,
        spent=spent,
        prior=prior,
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
    spent: Spent,
    prior: Prior | None,
) -> Decision | None:
    """Returns the next batch; None if the budget has no room for a candidate.

    Args:
        study: The study.
        candidates: All candidates so far.
        scores: Their scores.
        spent: The steps and hours that they have taken.
        prior: Predicts the merges of random candidates; None without a prior.
    """
    begin = len(candidates)
    num = _num_next(study, num_candidates=begin, spent=spent)
    if not num:
        return None
    predicted: tuple[float | None, ...] = ()
    if prior is not None and draws_at_random(study, scores=scores):
        values, predicted = prior.drawn(study, count=num, candidates=candidates)
    else:
        values = proposed(study, count=num, candidates=candidates, scores=scores)
    return Decision(
        kind="propose",
        candidates=tuple(range(begin, begin + len(values))),
        steps=search_of(study).rungs(study.finetune.defaults.steps)[0],
        values=tuple(values),
        predicted=predicted,
    )


def _num_next(study: Study, *, num_candidates: int, spent: Spent) -> int:
    """Returns the candidates of the next batch: as many as fit the budget with all their rungs."""
    search = search_of(study)
    num = search.batch_size(study.finetune.defaults.steps)
    if search.algorithm == "grid":
        num = min(num, len(grid(study)) - num_candidates)
    if search.budget.candidates is not None:
        num = min(num, search.budget.candidates - num_candidates)
    return num_with_room(study, spent=spent, most=max(0, num))

"""Adds up the work on the candidates of a search; says how many more its budget has room for.

Steps and hours are those of committed trials and merges, so that the answer is the same whenever a
search is killed.
"""

from dataclasses import dataclass

from orchestrator.costs.usage import Usage, training_seconds, usage_of
from orchestrator.record.committed import Committed
from orchestrator.search.space import search_of
from orchestrator.study.schema import Study
from workers.artifacts.metrics import steps_taken


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The committed work on the candidates of a search. The final merges are not part of it."""

    num_steps: int = 0
    """Optimizer steps of all trials, each step once."""
    train_s: float = 0.0
    """Seconds of the workers of these trials."""
    num_merged: int = 0
    """Merged candidates, counted once for each rung."""
    merge_s: float = 0.0
    """Seconds of the workers of the candidates' merges."""

    def usage(self, study: Study) -> Usage:
        """Returns the hours of the workers, times the shares that the study gives them."""
        trial, merge = study.resources.trial, study.resources.merge
        return usage_of(self.train_s, share=trial) + usage_of(self.merge_s, share=merge)


def spent_so_far(committed: Committed) -> Spent:
    """Returns the committed work on all candidates, whichever study made it.

    The manifest of an expert has the steps and the seconds since its trial began at step 0, so the
    greatest of a trial count. Failed tries are in no manifest.
    """
    plan = committed.plan
    num_steps, train_s = 0, 0.0
    for trial in plan.trials:
        found = [committed.experts.get(output.id) for output in trial.outputs]
        manifests = [each for each in found if each is not None]
        num_steps += max((steps_taken(each.metrics) for each in manifests), default=0)
        train_s += max(map(training_seconds, manifests), default=0.0)
    merges = {cell.merge.id: cell.setting.value for cell in plan.candidate_cells}
    merged = {each: committed.merges[each] for each in merges if each in committed.merges}
    return Spent(
        num_steps=num_steps,
        train_s=train_s,
        num_merged=len({merges[each] for each in merged}),
        merge_s=sum(sum(each.seconds.values()) for each in merged.values()),
    )


def num_with_room(study: Study, *, spent: Spent, most: int, rung: int = 0) -> int:
    """Returns how many candidates the rest of the budget probably has room for.

    Each of them counts with all the steps and merges that it may take until its last rung. Steps
    are known; hours are predicted from the mean seconds per step, and per merged candidate, so far.
    Before any trial is committed, hours are not limited.

    Args:
        study: A study with a search.
        spent: The work so far.
        most: The greatest number to return; 0 or more.
        rung: The rung to which the candidates are trained next, counted from 0.
    """
    num = most
    while num > 0 and not _has_room(study, spent=spent, num=num, rung=rung):
        num -= 1
    return num


def _has_room(study: Study, *, spent: Spent, num: int, rung: int) -> bool:
    budget = search_of(study).budget
    num_steps, num_merged = _most_work(study, num=num, rung=rung)
    if budget.steps is not None and spent.num_steps + num_steps > budget.steps:
        return False
    step_s = spent.train_s / max(1, spent.num_steps)
    merged_s = spent.merge_s / max(1, spent.num_merged)
    after = Spent(
        train_s=spent.train_s + num_steps * step_s,
        merge_s=spent.merge_s + num_merged * merged_s,
    ).usage(study)
    return after.fits(budget.hours)


def _most_work(study: Study, *, num: int, rung: int) -> tuple[int, int]:
    """Returns the most optimizer steps, and merged candidates, from a rung on to the last.

    Args:
        study: A study with a search.
        num: The candidates that are trained to the rung; halving lets fewer go on.
        rung: The rung, counted from 0.
    """
    search, num_tasks = search_of(study), len(study.task_names)
    most_steps = study.finetune.defaults.steps
    if search.halving is None:
        drawn = search.space["steps"].extremes if "steps" in search.space else [most_steps]
        return num_tasks * num * int(max(drawn)), num
    rungs = search.rungs(most_steps)
    before = rungs[rung - 1] or 0 if rung else 0
    num_steps, num_merged = 0, 0
    for steps in rungs[rung:]:
        assert steps is not None, "halving names the steps of every rung"
        num_steps += num_tasks * num * (steps - before)
        num_merged += num
        before, num = steps, max(1, num // search.halving.factor)
    return num_steps, num_merged

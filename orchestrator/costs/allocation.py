"""The allocation of a budget: which of a study's missing jobs fit, and which are left out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.costs.durations import Durations
from orchestrator.costs.sizes import Sizes
from orchestrator.costs.usage import Usage, total_usage, usage_of
from orchestrator.plan.plan import Plan
from orchestrator.record.study_state import StudyState
from orchestrator.study.resources import Resources
from workers.specs.merge import MergeSpec
from workers.specs.training import Training

PlannedJob = Training | MergeSpec


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The division of the jobs that can still run into those that fit the budget and the rest."""

    affordable: frozenset[str]
    """Ids of trainings and merge jobs that fit, the running ones included."""
    left_out: frozenset[str]
    """Ids of the other trainings and merge jobs."""
    used: Usage
    """The usage of committed artifacts and of unfinished trainings so far."""
    needed: Usage
    """The estimated usage of the whole study: work that is done, that fits, and that does not."""


@dataclass(frozen=True, kw_only=True)
class JobCosts:
    """Estimates of the usage of jobs, beyond the usage that counts for them already."""

    resources: Resources
    durations: Durations
    sizes: Sizes | None
    """None counts no bytes of missing artifacts."""
    spent_s: Mapping[str, float]
    """Seconds spent on each training already, by the ids of its outputs."""

    def of(self, job: PlannedJob) -> Usage:
        """Returns the estimated usage that a job adds."""
        if isinstance(job, MergeSpec):
            kept_bytes = (self.sizes.merge_bytes(job) or 0) if self.sizes else 0
            merge_s = self.durations.merge(job).seconds
            return usage_of(merge_s, share=self.resources.merge, num_bytes=kept_bytes)
        left_s = self.durations.training(job).seconds - self.spent_s[job.id]
        num_bytes = self.sizes.output_bytes(job) if self.sizes else 0
        return usage_of(max(0.0, left_s), share=self.resources.trial, num_bytes=num_bytes)

    def of_preparation(self) -> Usage:
        """Returns the bytes of the missing bases, images and heads; their time is not estimated."""
        return Usage(num_bytes=self.sizes.missing_preparation_bytes() if self.sizes else 0)


def allocate(
    state: StudyState, *, costs: JobCosts, used: Usage, admitted: Collection[str]
) -> Allocation:
    """Allocates the rest of a study's budget to its jobs, in the plan's order.

    Admitted jobs come first: they keep their room. Then each merge job gets room together with the
    trainings that it waits for, so that whole groups are finished and the end of the plan is
    left out. A reached limit leaves out everything that was not admitted.

    Args:
        state: The state of the study.
        costs: Estimates of the jobs' usage.
        used: The usage so far.
        admitted: Ids of jobs that were admitted and have not ended.
    """
    plan, budget = state.plan, state.plan.study.budget
    trainings = {each.id: each for each in state.possible_trainings}
    merges = {spec.id: spec for spec in state.possible_merges}
    jobs: dict[str, PlannedJob] = {**trainings, **merges}
    affordable = {each for each in admitted if each in jobs}
    allocated = used + costs.of_preparation() + total_usage(costs.of(jobs[e]) for e in affordable)
    for unit in _units(plan, trainings=trainings, merges=merges):
        new = [job for job in unit if job.id not in affordable]
        cost = total_usage(costs.of(job) for job in new)
        if (allocated + cost).fits(budget) and not used.reaches(budget):
            allocated += cost
            affordable |= {job.id for job in new}
    left_out = frozenset(jobs.keys() - affordable)
    rest = total_usage(costs.of(job) for job in jobs.values() if job.id in left_out)
    return Allocation(
        affordable=frozenset(affordable), left_out=left_out, used=used, needed=allocated + rest
    )


def _units(
    plan: Plan, *, trainings: Mapping[str, Training], merges: Mapping[str, MergeSpec]
) -> Iterator[Sequence[PlannedJob]]:
    """Yields the jobs that get room together, in the order in which they get it.

    First each merge job with the trainings that it waits for, then each trial that no merge waits
    for, then pretraining that no trial waits for. A trial stands after the pretraining of its base.
    """
    makers = {output.id: each for each in trainings.values() for output in each.outputs}
    chains = {
        each.id: [makers[each.base_id], each] if each.base_id in makers else [each]
        for each in trainings.values()
    }
    for_merges: set[str] = set()
    for spec in plan.merges.values():
        if spec.id in merges:
            members = (expert.id for expert in spec.members)
            needed = (makers[each] for each in members if each in makers)
            unit = {job.id: job for training in needed for job in chains[training.id]}
            for_merges |= unit.keys()
            yield [*unit.values(), spec]
    others = [each for each in trainings.values() if each.id not in for_merges]
    yield from (chains[each.id] for each in others if each.output_kind == "expert")
    base_ids = {each.base_id for each in trainings.values()}
    for each in others:
        if each.output_kind == "base" and base_ids.isdisjoint(base.id for base in each.outputs):
            yield [each]

"""What a study's budget still allows: the one place where it is kept.

A job starts only if its estimate fits what is left after all that was used, and after all that is
running at its own estimate. Room is given in the plan's order, to a merge job together with the
trials that it waits for and the pretraining that these wait for: what is left out stands at the
plan's end, and whole groups are finished. A pretraining is a trial here in all but its unit.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.costs.durations import Rates
from orchestrator.costs.sizes import Sizes
from orchestrator.costs.usage import Usage, counted_run_s, total, usage_of, usage_so_far
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.study.resources import Resources
from workers.calibrate.speeds import Calibration
from workers.models.model_sizes import ModelSize
from workers.specs.merge import MergeSpec
from workers.specs.training import Training

PlannedJob = Training | MergeSpec
CHOOSE_EVERY_S = 1.0
"""Least time between two choices while artifacts come in; each looks at the whole plan."""
NUM_DIGITS = 2
"""Of the limits that are proposed, rounded up."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of the missing jobs the budget has room for."""

    chosen: frozenset[str]
    """Ids of pretraining, trials and merge jobs."""
    left_out: frozenset[str]
    """Those that can be made and do not fit."""
    used: Usage
    """By what is committed and what runs has taken so far."""
    needed: Usage
    """All in all for the whole study, as estimated."""


class Allowance:
    """Admits jobs while they fit the study's budget; without limits, all of them. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        calibration: Calibration | None = None,
        models: Mapping[str, ModelSize] | None = None,
        unfinished_s: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with what the store has.

        Args:
            ledger: The plan, and what of it is committed.
            calibration: For estimates of what was never run.
            models: Backbones by the ids of their bases, for estimates of bytes and guesses of time;
                without them only the bytes of committed files count.
            unfinished_s: Seconds that earlier runs spent on trials which are not committed yet.
            clock: Seconds, from any origin.
        """
        self._ledger = ledger
        self._budget = ledger.plan.study.budget
        self._calibration = calibration
        self._clock = clock
        self._lock = threading.RLock()
        self._before_s = dict(unfinished_s or {})
        self._started_s: dict[str, float] = {}
        self._admitted: set[str] = set()
        self._choice: Choice | None = None
        self._chosen_s = -math.inf
        self._models = models
        if self.is_limited:
            ledger.leave_out(self.choice().left_out)

    @property
    def is_limited(self) -> bool:
        """Whether the study limits anything."""
        return bool(self._budget.limits())

    def has_room_for(self, job_id: str) -> bool:
        """Tells whether a trial or merge job fits what is left."""
        if not self.is_limited:
            return True
        with self._lock:
            if self._clock() - self._chosen_s > CHOOSE_EVERY_S:
                self.review()
            return job_id in self._admitted or job_id in self.choice().chosen

    def admits(self, job_id: str) -> bool:
        """Tells whether a trial or merge job may start; if so its room is kept until it ends."""
        with self._lock:
            if not self.has_room_for(job_id):
                return False
            self._admitted.add(job_id)
            return True

    def started(self, trial_id: str) -> None:
        """Notes that a worker has begun with a run: from now on its time counts."""
        with self._lock:
            self._started_s.setdefault(trial_id, self._clock())

    def ended(self, job_id: str) -> None:
        """Notes that a job was committed, failed or was lost; its room is free again."""
        with self._lock:
            self.paused(job_id)
            self._admitted.discard(job_id)

    def paused(self, trial_id: str) -> None:
        """Notes that no worker has a run for now: its time stands still, its room is kept."""
        with self._lock:
            self._add_time(trial_id)
            self._started_s.pop(trial_id, None)

    def is_spent(self) -> bool:
        """Tells whether a limit is reached by what was measured, running trials included."""
        return self.is_limited and self.used().reaches(self._budget)

    def used(self) -> Usage:
        """Returns what committed artifacts took, and uncommitted trials until now."""
        return usage_so_far(self._ledger.committed(), unfinished_s=self.unfinished_s())

    def unfinished_s(self) -> dict[str, float]:
        """Returns the seconds spent on trials that are not committed, in earlier runs too."""
        now_s = self._clock()
        with self._lock:
            seconds = dict(self._before_s)
            for trial_id, started_s in self._started_s.items():
                seconds[trial_id] = seconds.get(trial_id, 0.0) + now_s - started_s
        return {each: s for each, s in seconds.items() if not self._ledger.is_committed(each)}

    def close(self) -> None:
        """Notes that nothing runs any more, and what was left out."""
        with self._lock:
            for job_id in list(self._started_s):
                self.ended(job_id)
            self._admitted.clear()
            self.review()
            if self.is_limited:
                self._ledger.leave_out(self.choice().left_out)

    def review(self) -> None:
        """Chooses anew from what is known by now."""
        with self._lock:
            self._choice = None

    def choice(self) -> Choice:
        """Returns which jobs fit, in the plan's order, after those that run."""
        with self._lock:
            if self._choice is None:
                self._choice = self._choose()
                self._chosen_s = self._clock()
            return self._choice

    def proposals(self) -> dict[str, float]:
        """Returns the limits that are too low for the whole study, and what would be enough."""
        needed, limits = self.choice().needed.amounts(self._budget), self._budget.limits()
        return {
            name: _rounded_up(amount) for name, amount in needed.items() if amount > limits[name]
        }

    def _add_time(self, trial_id: str) -> None:
        if trial_id in self._started_s:
            spent_s = self._clock() - self._started_s[trial_id]
            self._before_s[trial_id] = self._before_s.get(trial_id, 0.0) + spent_s

    def _choose(self) -> Choice:
        state, models = self._ledger.state(), self._models
        committed = state.committed
        costs = _Costs(
            committed.plan.study.resources,
            rates=Rates(committed, calibration=self._calibration, models=models),
            sizes=None if models is None else Sizes(committed=committed, models=models),
            counted_s=counted_run_s(committed, unfinished_s=self.unfinished_s()),
        )
        trainings = {each.id: each for each in state.possible_trainings}
        merges = {spec.id: spec for spec in state.possible_merges}
        used = self.used()
        jobs: dict[str, PlannedJob] = {**trainings, **merges}
        chosen = {each for each in self._admitted if each in jobs}
        taken = used + costs.preparation() + total(costs.of(jobs[each]) for each in chosen)
        for unit in _units(self._ledger.plan, trainings=trainings, merges=merges):
            new = [job for job in unit if job.id not in chosen]
            cost = total(costs.of(job) for job in new)
            if (taken + cost).fits(self._budget) and not used.reaches(self._budget):
                taken += cost
                chosen |= {job.id for job in new}
        left_out = frozenset(jobs.keys() - chosen)
        rest = total(costs.of(job) for job in jobs.values() if job.id in left_out)
        return Choice(chosen=frozenset(chosen), left_out=left_out, used=used, needed=taken + rest)


class _Costs:
    """What jobs are estimated to use, beyond what counts for them already."""

    def __init__(
        self,
        resources: Resources,
        *,
        rates: Rates,
        sizes: Sizes | None,
        counted_s: Mapping[str, float],
    ) -> None:
        self._resources = resources
        self._rates = rates
        self._sizes = sizes
        self._counted_s = counted_s

    def of(self, job: PlannedJob) -> Usage:
        if isinstance(job, MergeSpec):
            return usage_of(self._rates.merge(job).seconds, share=self._resources.merge)
        left_s = self._rates.training(job).seconds - self._counted_s[job.id]
        num_bytes = self._sizes.output_bytes(job) if self._sizes else 0
        return usage_of(max(0.0, left_s), share=self._resources.trial, num_bytes=num_bytes)

    def preparation(self) -> Usage:
        """Returns the bytes of the bases, images and heads that are missing; not their time."""
        return Usage(num_bytes=self._sizes.missing_preparation_bytes() if self._sizes else 0)


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
            members = (expert.id for expert in (*spec.experts, *spec.held_out))
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


def _rounded_up(amount: float) -> float:
    step = 10.0 ** (math.floor(math.log10(amount)) + 1 - NUM_DIGITS)
    return round(math.ceil(amount / step * (1 - 1e-9)) * step, 12)

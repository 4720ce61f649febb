"""The keeper of a study's budget, and the lines that report on the budget."""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping

from eval.counts import counted
from orchestrator.costs.allocation import Allocation, JobCosts, allocate
from orchestrator.costs.durations import Durations
from orchestrator.costs.sizes import Sizes
from orchestrator.costs.usage import Usage, UsageMeter, spent_by_training, usage_so_far
from orchestrator.plan.plan import Plan
from orchestrator.progress.pause import pause_s
from orchestrator.record.ledger import Ledger
from workers.calibrate.speeds import Calibration
from workers.models.model_sizes import ModelSize

ALLOCATE_EVERY_S = 1.0
"""Least seconds between two allocations while artifacts come in: each reads the whole plan."""
ALLOCATE_FRAC = 0.05
"""The part of the time that allocations may take; those of 10,000 trials take 0.2 s each."""
NUM_DIGITS = 2
"""Significant digits of a proposed limit, which is rounded up."""


class BudgetKeeper:
    """Admits jobs while they fit the study's budget. Thread-safe.

    A job starts only if its estimate fits the rest of the budget: the limits minus the usage so far
    and the estimates of running jobs. A study without limits admits every job.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        calibration: Calibration | None = None,
        models: Mapping[str, ModelSize] | None = None,
        unfinished_s: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a keeper, and tells the ledger which jobs do not fit.

        Args:
            ledger: The records of the study.
            calibration: Timed speeds, for jobs of a kind that is not committed yet.
            models: Sizes of the backbones by the ids of their bases, for estimates of bytes and for
                guesses of times. None counts only the bytes of committed files.
            unfinished_s: Seconds that earlier runs spent on trainings that are not committed yet.
            clock: Returns seconds from any origin.
        """
        self._ledger = ledger
        self._budget = ledger.plan.study.budget
        self._calibration = calibration
        self._models = models
        self._clock = clock
        self._lock = threading.RLock()
        self._spent_s = dict(unfinished_s or {})
        """Seconds spent on trainings, without the time since `_started_s`."""
        self._started_s: dict[str, float] = {}
        """The time at which the worker of each running training started, by id."""
        self._admitted: set[str] = set()
        self._allocation: Allocation | None = None
        self._allocate_again_s = -math.inf
        self._meter = UsageMeter(ledger.plan)
        self._tell_ledger()

    @property
    def is_limited(self) -> bool:
        """Returns whether the study has a limit."""
        return bool(self._budget.limits())

    def has_room_for(self, job_id: str) -> bool:
        """Returns whether a training or merge job fits the budget."""
        if not self.is_limited:
            return True
        with self._lock:
            if self._clock() > self._allocate_again_s:
                self.refresh()
            return job_id in self._admitted or job_id in self.allocation().affordable

    def admit(self, job_id: str) -> bool:
        """Returns whether a training or merge job may start; keeps its room until it ends."""
        with self._lock:
            if not self.has_room_for(job_id):
                return False
            self._admitted.add(job_id)
            return True

    def started(self, training_id: str) -> None:
        """Records that a worker has started a training: its seconds count from now on."""
        with self._lock:
            self._started_s.setdefault(training_id, self._clock())

    def paused(self, training_id: str) -> None:
        """Records that no worker holds a training any more; the training keeps its room."""
        with self._lock:
            if (started_s := self._started_s.pop(training_id, None)) is not None:
                spent_s = self._clock() - started_s
                self._spent_s[training_id] = self._spent_s.get(training_id, 0.0) + spent_s

    def ended(self, job_id: str) -> None:
        """Records that a job is committed, failed or lost, which frees its room."""
        with self._lock:
            self.paused(job_id)
            self._admitted.discard(job_id)
            if self._ledger.is_committed(job_id):
                self._spent_s.pop(job_id, None)  # its manifests have the seconds

    def is_spent(self) -> bool:
        """Returns whether the measured usage reaches a limit, running trainings included."""
        return self.is_limited and self.usage().reaches(self._budget)

    def usage(self) -> Usage:
        """Returns the usage of committed artifacts and of unfinished trainings until now."""
        unfinished_s = self.unfinished_s()
        with self._lock:
            for manifest in self._ledger.added_since(self._meter.num_added):
                self._meter.add(manifest)
            return self._meter.usage(unfinished_s=unfinished_s)

    def unfinished_s(self) -> dict[str, float]:
        """Returns the seconds spent on uncommitted trainings by id, earlier runs included."""
        now_s = self._clock()
        with self._lock:
            seconds = dict(self._spent_s)
            for training_id, started_s in self._started_s.items():
                seconds[training_id] = seconds.get(training_id, 0.0) + now_s - started_s
        return {each: s for each, s in seconds.items() if not self._ledger.is_committed(each)}

    def refresh(self) -> None:
        """Makes the next question allocate again, from the artifacts committed by then."""
        with self._lock:
            self._allocation = None

    def allocation(self) -> Allocation:
        """Returns the jobs that fit the budget and the jobs that do not."""
        with self._lock:
            if self._allocation is None:
                began_s = self._clock()
                self._allocation = self._allocate()
                now_s = self._clock()
                self._allocate_again_s = now_s + pause_s(
                    now_s - began_s, least_s=ALLOCATE_EVERY_S, max_frac=ALLOCATE_FRAC
                )
            return self._allocation

    def left_out(self) -> frozenset[str]:
        """Returns the ids of the jobs that do not fit the budget."""
        return self.allocation().left_out if self.is_limited else frozenset()

    def sufficient_limits(self) -> dict[str, float]:
        """Returns the limits that are too low for the whole study, raised to be sufficient."""
        needed, limits = self.allocation().needed.amounts(self._budget), self._budget.limits()
        return {
            name: _rounded_up(amount) for name, amount in needed.items() if amount > limits[name]
        }

    def grow(self) -> None:
        """Takes the ledger's plan, which has grown."""
        with self._lock:
            self._meter = UsageMeter(self._ledger.plan)
            self.refresh()
            self._tell_ledger()

    def close(self) -> None:
        """Records that nothing runs any more, and tells the ledger which jobs do not fit."""
        with self._lock:
            for training_id in list(self._started_s):
                self.ended(training_id)
            self._admitted.clear()
            self.refresh()
            self._tell_ledger()

    def _tell_ledger(self) -> None:
        if self.is_limited:
            self._ledger.leave_out(self.allocation().left_out)

    def _allocate(self) -> Allocation:
        state, models = self._ledger.state(), self._models
        committed, unfinished_s = state.committed, self.unfinished_s()
        costs = JobCosts(
            resources=committed.plan.study.resources,
            durations=Durations(committed, calibration=self._calibration, models=models),
            sizes=None if models is None else Sizes(committed=committed, models=models),
            spent_s=spent_by_training(committed, unfinished_s=unfinished_s),
        )
        used = usage_so_far(committed, unfinished_s=unfinished_s)
        return allocate(state, costs=costs, used=used, admitted=self._admitted)


def budget_lines(plan: Plan, *, keeper: BudgetKeeper) -> Iterator[str]:
    """Yields lines for people: the usage, the jobs left out, and limits for the whole study."""
    if not keeper.is_limited:
        return
    allocation = keeper.allocation()
    yield f"budget: used {', '.join(allocation.used.texts(plan.study.budget))}"
    left_out = allocation.left_out
    if not left_out:
        return
    num_merges = len(left_out & plan.merges.keys())
    num_models = len(left_out & plan.bases.multi_task_ids)
    num_pretrainings = len(left_out & plan.bases.by_id.keys()) - num_models
    num_trials = len(left_out) - num_merges - num_pretrainings - num_models
    before = [(num_pretrainings, "pretraining"), (num_models, "multi-task model")]
    others = "".join(f"{counted(num, noun)}, " for num, noun in before if num)
    jobs = f"{counted(num_trials, 'trial')} and {counted(num_merges, 'merge job')}"
    yield (
        f"left out, by the estimates: {others}{jobs}: "
        f"{'; '.join(_settings_left_out(plan, left_out=left_out))}"
    )
    limits = keeper.sufficient_limits()
    proposed = ", ".join(f"budget.{name}: {each:g}" for name, each in limits.items())
    yield f"enough for all: {proposed or 'more'}; raise it in the study file and run that again"


def _settings_left_out(plan: Plan, *, left_out: Collection[str]) -> Iterator[str]:
    """Yields the settings whose merges are left out; of a setting without merges, its experts."""
    merges = defaultdict(set)
    for cell in plan.cells:
        merges[cell.setting.name].add(cell.merge.id)
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        wanted = merges[setting.name] or {expert.id for expert in experts.values()}
        missing = wanted.intersection(left_out)
        if missing:
            part = "" if missing == wanted else f" ({len(missing)} of {len(wanted)})"
            yield f"{setting.name}{part}"


def _rounded_up(amount: float) -> float:
    step = 10.0 ** (math.floor(math.log10(amount)) + 1 - NUM_DIGITS)
    return round(math.ceil(amount / step * (1 - 1e-9)) * step, 12)

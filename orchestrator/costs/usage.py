"""The resources that a study uses: processor time, bytes in the store, and their price."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.study.resources import Budget, Share
from workers.artifacts.manifests import Manifest

HOUR_S = 3600.0
GIGABYTE = 1e9
_UNITS = {
    "gpu_hours": "GPU-hours",
    "cpu_hours": "CPU-core-hours",
    "usd": "USD",
    "gigabytes": "GB in the store",
}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """An amount of each resource that a budget can limit."""

    gpu_s: float = 0.0
    """Worker-seconds times the worker's share of a GPU."""
    cpu_s: float = 0.0
    """Worker-seconds times the worker's cores."""
    num_bytes: int = 0
    """Bytes of files in the store."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            gpu_s=self.gpu_s + other.gpu_s,
            cpu_s=self.cpu_s + other.cpu_s,
            num_bytes=self.num_bytes + other.num_bytes,
        )

    @property
    def gpu_hours(self) -> float:
        """`gpu_s` in hours."""
        return self.gpu_s / HOUR_S

    @property
    def cpu_hours(self) -> float:
        """`cpu_s` in hours."""
        return self.cpu_s / HOUR_S

    def usd(self, budget: Budget) -> float:
        """Returns the price of the processor time in USD; 0 for a budget without prices."""
        of_gpus = self.gpu_hours * (budget.usd_per_gpu_hour or 0)
        return of_gpus + self.cpu_hours * (budget.usd_per_cpu_hour or 0)

    def amounts(self, budget: Budget) -> dict[str, float]:
        """Returns the amount of each resource that a budget limits, in the budget's units."""
        values = {
            "gpu_hours": self.gpu_hours,
            "cpu_hours": self.cpu_hours,
            "usd": self.usd(budget),
            "gigabytes": self.num_bytes / GIGABYTE,
        }
        return {name: values[name] for name in budget.limits()}

    def texts(self, budget: Budget) -> list[str]:
        """Returns each amount beside its limit in words, such as `2.5 of 10 GPU-hours`."""
        amounts = self.amounts(budget)
        return [f"{amounts[name]:.3g} of {limit}" for name, limit in limit_texts(budget).items()]

    def fits(self, budget: Budget) -> bool:
        """Returns whether no limit of a budget is exceeded."""
        limits = budget.limits()
        return all(amount <= limits[name] for name, amount in self.amounts(budget).items())

    def reaches(self, budget: Budget) -> bool:
        """Returns whether a limit of a budget is reached, so that nothing more may be used."""
        limits = budget.limits()
        return any(amount >= limits[name] for name, amount in self.amounts(budget).items())


def limit_texts(budget: Budget) -> dict[str, str]:
    """Returns the limits of a budget in words, such as `10 GPU-hours`, by field."""
    return {name: f"{limit:g} {_UNITS[name]}" for name, limit in budget.limits().items()}


def usage_of(seconds: float, *, share: Share, num_bytes: int = 0) -> Usage:
    """Returns the usage of a worker with a share that works for some seconds."""
    return Usage(gpu_s=seconds * share.gpu, cpu_s=seconds * share.cpu, num_bytes=num_bytes)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Returns the sum of some usages."""
    return reduce(add, usages, Usage())


def training_seconds(manifest: Manifest) -> float:
    """Returns the seconds from the start of a training to the commit of a base or expert."""
    return sum(manifest.seconds.values())


def spent_by_training(
    committed: Committed, *, unfinished_s: Mapping[str, float]
) -> dict[str, float]:
    """Returns the seconds spent on each training of a plan, by the id of each of its outputs.

    The manifest of each output has the seconds since the training started, so the longest time
    of a training counts. Failed tries and lost nodes of a committed training are in no manifest and
    do not count.

    Args:
        committed: The plan, and the manifests of its committed artifacts.
        unfinished_s: Seconds spent on trainings that are not committed yet, by id.
    """
    spent: dict[str, float] = {}
    for training in committed.plan.trainings:
        manifests = {output.id: committed.trained(output.id) for output in training.outputs}
        seconds = [
            unfinished_s.get(output_id, 0.0) if manifest is None else training_seconds(manifest)
            for output_id, manifest in manifests.items()
        ]
        spent |= dict.fromkeys(manifests, max(seconds))
    return spent


class UsageMeter:
    """Adds up the usage of a plan's artifacts as they are committed: each is read once."""

    def __init__(self, plan: Plan) -> None:
        self._resources = plan.study.resources
        self._training_of = {out.id: each.id for each in plan.trainings for out in each.outputs}
        self._training_ids = {each.id for each in plan.trainings}
        self._spent_s: dict[str, float] = {}
        """Seconds of each training until its last commit, by its id."""
        self._train_s = 0.0
        self._job_s = 0.0
        self._num_bytes = 0
        self.num_added = 0
        """The number of artifacts that were added."""

    def add(self, manifest: Manifest) -> None:
        """Adds a committed artifact of the plan; call it once for each."""
        self.num_added += 1
        training_id = self._training_of.get(manifest.id)
        if training_id is not None:
            before_s = self._spent_s.get(training_id, 0.0)
            self._spent_s[training_id] = max(before_s, training_seconds(manifest))
            self._train_s += self._spent_s[training_id] - before_s
        else:
            self._job_s += sum(manifest.seconds.values())
        if manifest.files:  # most merges have none
            self._num_bytes += sum(file.size_bytes for file in manifest.files)

    def usage(self, *, unfinished_s: Mapping[str, float]) -> Usage:
        """Returns the usage: trainings, merge jobs, preparation, and files in the store.

        Args:
            unfinished_s: Seconds spent on trainings that are not committed yet, by id.
        """
        more_s = sum(
            max(0.0, seconds - self._spent_s.get(training_id, 0.0))
            for training_id, seconds in unfinished_s.items()
            if training_id in self._training_ids
        )
        return (
            usage_of(self._train_s + more_s, share=self._resources.trial)
            + usage_of(self._job_s, share=self._resources.merge)
            + Usage(num_bytes=self._num_bytes)
        )


def usage_so_far(committed: Committed, *, unfinished_s: Mapping[str, float]) -> Usage:
    """Returns the usage of a study: trainings, merge jobs, preparation, and files in the store.

    Args:
        committed: The plan, and the manifests of its committed artifacts.
        unfinished_s: Seconds spent on trainings that are not committed yet, by id.
    """
    meter = UsageMeter(committed.plan)
    for manifests in (committed.prepared, committed.experts, committed.merges):
        for manifest in manifests.values():
            meter.add(manifest)
    return meter.usage(unfinished_s=unfinished_s)

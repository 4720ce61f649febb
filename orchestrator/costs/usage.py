"""What jobs use of a cluster and of the store: processor time, bytes, and what they cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

from orchestrator.record.committed import Committed
from orchestrator.study.resources import Budget, Share
from workers.artifacts.manifests import Manifest

HOUR_S = 3600.0
GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Usage:
    """An amount of each resource that a budget can limit."""

    gpu_s: float = 0.0
    """Seconds of workers times their share of a GPU."""
    cpu_s: float = 0.0
    """Seconds of workers times their cores."""
    num_bytes: int = 0
    """Of files in the store."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            gpu_s=self.gpu_s + other.gpu_s,
            cpu_s=self.cpu_s + other.cpu_s,
            num_bytes=self.num_bytes + other.num_bytes,
        )

    @property
    def gpu_hours(self) -> float:
        """The same in hours."""
        return self.gpu_s / HOUR_S

    @property
    def cpu_hours(self) -> float:
        """The same in hours."""
        return self.cpu_s / HOUR_S

    def usd(self, budget: Budget) -> float:
        """Returns what the time costs at a budget's prices; 0 without any."""
        of_gpus = self.gpu_hours * (budget.usd_per_gpu_hour or 0)
        return of_gpus + self.cpu_hours * (budget.usd_per_cpu_hour or 0)

    def amounts(self, budget: Budget) -> dict[str, float]:
        """Returns how much this is of everything that a budget limits, in the budget's units."""
        values = {
            "gpu_hours": self.gpu_hours,
            "cpu_hours": self.cpu_hours,
            "usd": self.usd(budget),
            "gigabytes": self.num_bytes / GIGABYTE,
        }
        return {name: values[name] for name in budget.limits()}

    def fits(self, budget: Budget) -> bool:
        """Tells whether no limit is exceeded."""
        limits = budget.limits()
        return all(amount <= limits[name] for name, amount in self.amounts(budget).items())

    def reaches(self, budget: Budget) -> bool:
        """Tells whether a limit is reached: nothing more may be used."""
        limits = budget.limits()
        return any(amount >= limits[name] for name, amount in self.amounts(budget).items())


def usage_of(seconds: float, *, share: Share, num_bytes: int = 0) -> Usage:
    """Returns what a worker with a share uses in so many seconds."""
    return Usage(gpu_s=seconds * share.gpu, cpu_s=seconds * share.cpu, num_bytes=num_bytes)


def total(usages: Iterable[Usage]) -> Usage:
    """Returns the sum."""
    return reduce(add, usages, Usage())


def counted_run_s(committed: Committed, *, unfinished_s: Mapping[str, float]) -> dict[str, float]:
    """Returns the seconds that count for each run of a plan, by the id of each of its snapshots.

    The seconds of an expert are those of its trial until it was committed, so that of a trial's
    snapshots the last one counts; so are those of a base that is pretrained. What failed tries and
    lost nodes took of a run that is committed is in no manifest and does not count.

    Args:
        committed: The plan, and the manifests of its committed artifacts.
        unfinished_s: What was spent on runs that are not committed yet.
    """
    counted: dict[str, float] = {}
    for training in committed.plan.trainings:
        manifests = {output.id: committed.trained(output.id) for output in training.outputs}
        seconds = [
            unfinished_s.get(output_id, 0.0) if manifest is None else training_seconds(manifest)
            for output_id, manifest in manifests.items()
        ]
        counted |= dict.fromkeys(manifests, max(seconds))
    return counted


def training_seconds(manifest: Manifest) -> float:
    """Returns the seconds from the start of a training to the commit of a base or expert."""
    return sum(manifest.seconds.values())


def usage_so_far(committed: Committed, *, unfinished_s: Mapping[str, float]) -> Usage:
    """Returns what a plan has used: runs, merge jobs, preparation, and the files in the store."""
    plan = committed.plan
    counted = counted_run_s(committed, unfinished_s=unfinished_s)
    prepared = list(committed.prepared.values())
    jobs = [each for each in prepared if each.id not in counted] + list(committed.merges.values())
    stored = prepared + list(committed.experts.values())
    return (
        usage_of(
            sum(counted[training.id] for training in plan.trainings),
            share=plan.study.resources.trial,
        )
        + usage_of(
            sum(sum(each.seconds.values()) for each in jobs), share=plan.study.resources.merge
        )
        + Usage(num_bytes=sum(file.size_bytes for each in stored for file in each.files))
    )
